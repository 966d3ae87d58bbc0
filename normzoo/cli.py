"""Run the command line: `normzoo train | report | claims | list | show | atlas | doctor | bench`."""

import argparse
import difflib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from normzoo import __version__
from normzoo._interrupt import handle_again
from normzoo.commands import atlas, bench, claims, doctor, report, show, train
from normzoo.commands import list as list_command
from normzoo.commands.broken_pipe import to_any_reader
from normzoo.errors import UserError, exit_with
from normzoo.registry import list_norms
from normzoo.text import printable

COMMANDS = ("train", "report", "claims", "list", "show", "atlas", "doctor", "bench")

DESCRIPTION = """Every normalization layer for PyTorch under a name, put into models, swept and explained.

  normzoo train [OVERRIDE ...]       train one cell; normzoo train --help lists groups and options
  normzoo train -m [OVERRIDE ...]    train every combination of comma-separated values
  normzoo report FOLDER              tables and figure from the results in a folder, finished or not
  normzoo claims [--quick]           test claims about normalization; --list lists them
  normzoo list [--FACT ...]          the norms; normzoo list --help lists the options
  normzoo show NORM                  equation, facts, arguments and source of one norm
  normzoo atlas                      one page with every norm as a card, and an experiment to play with
  normzoo doctor [OVERRIDE ...]      what is wrong with the norms of a cell's model, or of your own
  normzoo bench layers               time and saved memory of each norm relative to torch's or timm's

  normzoo train norm=group_norm batch_size_per_device=2
  normzoo train -m experiment=small_batch

Results go into a folder in runs/; its name is printed at the end.
"""
EXIT_CODES = """Exit codes: 0 success; 1 a cell or the program failed; 2 an error that you can fix (an option, a file,
a missing package); 130 interrupted. A diverged cell has not failed: that is its result. A refused cell of a
sweep has not failed either, unless all were refused (2)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 0 on success, 1 on a failure, 2 on an error that the user can fix."""
    with to_any_reader():
        _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> None:
    try:
        if arguments[:1] == ["train"]:
            train.run(arguments[1:])
            return
        handle_again()
        if arguments[:1] in (["-sc"], ["--shell-completion"]):
            _complete(arguments)
        else:
            _parse(arguments)
        _check_printed(arguments)
    except UserError as error:
        exit_with(error)
    except KeyboardInterrupt as interrupt:
        otherwise = "interrupted"
        if {"-m", "--multirun"} & set(arguments):
            otherwise += "; finished cells are kept; to resume, add hydra.sweep.dir=<folder of the sweep>"
        sys.stderr.write(printable(f"{str(interrupt) or otherwise}\n"))
        sys.exit(130)


def _check_printed(arguments: Sequence[str]) -> None:
    """Check that the output was printed; the results of a sweep are in its folder.

    Raises:
        UserError: If it was not.
    """
    sys.stdout.flush()
    lost: OSError | None = getattr(sys.stdout, "lost", None)
    if lost is not None and arguments[:1] != ["train"]:
        raise UserError(f"cannot write standard output: {lost.strerror}")


def _complete(arguments: Sequence[str]) -> None:
    """Answer the shell's completion script, which does not know subcommands."""
    line = os.environ.get("COMP_LINE", "")
    words = [*line.split(), *([""] if line.endswith(" ") else [])]  # the last is the one to complete
    if len(words) <= 2:
        print(*(command for command in COMMANDS if command.startswith(words[1] if len(words) == 2 else "")))
    elif words[1] == "show":
        print(*(name for name in list_norms() if name.startswith(words[-1])))
    elif words[1] in ("train", "doctor"):
        os.environ["COMP_LINE"] = re.sub(rf"^(\s*\S+\s+){words[1]}(\s+|$)", r"\1", line)
        train.run(arguments)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors show the usage of the subcommand."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def _check_command(given: str) -> None:
    """Reject an unknown command.

    Raises:
        UserError: If it is unknown; the message names the nearest.
    """
    if given in COMMANDS or given.startswith("-"):
        return
    near = difflib.get_close_matches(given, COMMANDS, n=1)
    meant = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
    if "=" in given:
        meant = f"did you mean normzoo train {shlex.quote(given)}?"
    raise UserError(f"unknown command {given!r}; {meant}")


def _parse(arguments: Sequence[str]) -> None:
    for given in arguments[:1]:
        _check_command(given)
    parser: argparse.ArgumentParser = _Parser(
        prog="normzoo",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"normzoo {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("train", help="train one cell, or with -m a sweep", add_help=False)
    for name, command, help_ in (
        ("report", report, "write results.csv, summary.md and the figure from a folder of results"),
        ("claims", claims, "test claims about normalization"),
        ("list", list_command, "list norms, all or those with certain facts"),
        ("show", show, "print equation, facts, arguments and source of one norm"),
        ("atlas", atlas, "write every norm on one page, with an experiment to play with"),
        ("doctor", doctor, "find what is wrong with the norms of a model"),
        ("bench", bench, "measure what the norms cost"),
    ):
        added = commands.add_parser(name, help=help_)
        command.add_arguments(added)
        added.set_defaults(run=command.run)
    chosen = parser.parse_args(arguments or ["--help"])
    chosen.run(chosen)
