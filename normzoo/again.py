"""The command that goes on with a sweep, or with a single cell."""

import os
import re
import shlex
import sys
from collections.abc import Container, Sequence
from pathlib import Path

# What the command must not repeat: where it writes is said anew, and what has been done stays done.
_DROPPED = ("hydra.sweep.dir", "sweep.resume", "sweep.dry_run")

# The key under which a command that is no `normzoo train` tells the sweep it makes what the user has typed.
COMMAND = "hydra.callbacks.report.command"


def go_on(folder: str | os.PathLike[str], arguments: Sequence[str] | None = None, **options: str) -> str:
    """The command line that goes on with a sweep in `folder`, quoted for a shell.

    Args:
        folder: The sweep's.
        arguments: Of `normzoo train`, as they were given; None for those of this process.
        options: Of the `sweep` block, to be set in this command: `retry="failed"`.
    """
    words = _typed(arguments, {*_DROPPED, *(f"sweep.{name}" for name in options)})
    folder = Path(folder)
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    target = [f"hydra.sweep.dir={hydra_quoted(str(folder))}"] if words[1] == "train" else ["--dir", str(folder)]
    return shlex.join([*words, *(f"sweep.{name}={value}" for name, value in options.items()), *target])


def go_on_alone(folder: str | os.PathLike[str]) -> str:
    """The command line that goes on with the one cell in `folder`, quoted for a shell."""
    return shlex.join([*_typed(None, {"hydra.run.dir", "sweep.resume"}), f"hydra.run.dir={hydra_quoted(str(folder))}"])


def typed(arguments: Sequence[str] | None = None) -> str:
    """The command line of a sweep as its user has typed it, but for where it writes and what it skips."""
    return shlex.join(_typed(arguments, {*_DROPPED, "sweep.retry"}))


def _typed(arguments: Sequence[str] | None, dropped: Container[str]) -> list[str]:
    given = list(sys.argv[1:] if arguments is None else arguments)
    other = next((argument for argument in given if argument.startswith(f"+{COMMAND}=")), None)
    if other is None:
        words = ["normzoo", "train", *given]
    else:
        words = shlex.split(_unquoted(other.partition("=")[2]).replace("\\${", "${"))
    return [word for word in words if word.lstrip("+").split("=")[0] not in dropped]


def hydra_quoted(value: str) -> str:
    """The text as Hydra reads it back, whatever characters are in it."""
    if re.fullmatch(r"[\w./:@%+-]+", value, flags=re.ASCII):
        return value
    # Backslashes count only before a quote, the closing one among them.
    doubled = re.sub(r"(\\*)('|$)", r"\1\1\2", value)
    return "'" + doubled.replace("'", "\\'") + "'"


def _unquoted(value: str) -> str:
    """The text that `hydra_quoted` made this of."""
    if not value.startswith("'"):
        return value
    return re.sub(r"(\\+)(?='|$)", lambda found: found[1][: len(found[1]) // 2], value[1:-1])
