"""`normzoo list`: list the norms."""

import argparse
import inspect
import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any, get_args

from normzoo.atlas.facts import source
from normzoo.commands.show import warnings_on_a_line
from normzoo.norm_info import Kind, NormInfo
from normzoo.registry import info, list_norms

# A fact, with the options for norms that have it and that do not, and their meaning.
FLAGS = (
    (
        "batch_dependent",
        ("--batch-dependent", "in training a sample's output depends on the rest of the batch"),
        ("--batch-independent", "a sample's output does not depend on the others"),
    ),
    (
        "state",
        ("--has-state", "training writes buffers, such as running statistics"),
        ("--no-state", "training writes nothing but parameters"),
    ),
    (
        "train_eval_differ",
        ("--train-eval-differ", "evaluation computes something different from training"),
        ("--train-eval-same", "evaluation computes the same as training"),
    ),
    (
        "fused",
        ("--fused", "one torch kernel does the work"),
        ("--composite", "several kernels do the work"),
    ),
    (
        "includes_activation",
        ("--includes-activation", "norm and activation in one"),
        ("--no-activation", "a norm alone"),
    ),
)
COLUMNS = ("name", "averages over", "batch-dependent", "state", "activation", "paper")
LEAST_PAPER = 16  # characters; a terminal with less room for the paper shows none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select norms."""
    parser.description = (
        "List the norms as a table. In a pipe, print one per line without a header, and separate the columns by tabs: "
        f"{', '.join(COLUMNS)}."
    )
    for fact, (so, meaning), (not_so, contrary) in FLAGS:
        either = parser.add_mutually_exclusive_group()
        either.add_argument(so, dest=fact, action="store_true", default=None, help=meaning)
        either.add_argument(not_so, dest=fact, action="store_false", default=None, help=contrary)
    parser.add_argument("--kind", choices=get_args(Kind), help="takes an input, an input and a condition, or weights")
    parser.add_argument(
        "--rank", dest="ranks", type=int, metavar="N", help="takes inputs of N dimensions, batch and channels included"
    )
    parser.add_argument("--json", action="store_true", help="print all facts as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print the norms that match all options."""
    asked = {fact: getattr(arguments, fact) for fact in (*(fact for fact, *_ in FLAGS), "kind", "ranks")}
    with warnings_on_a_line():
        names = list_norms(**{fact: value for fact, value in asked.items() if value is not None})
    norms = [info(name) for name in names]
    if arguments.json:
        print(json.dumps([as_json(norm) for norm in norms], indent=2, ensure_ascii=False))
    elif not norms:
        sys.stderr.write("no norm matches all options\n")
    elif sys.stdout.isatty():
        print(table([COLUMNS, *map(_row, norms)], shutil.get_terminal_size().columns))
    else:
        print("\n".join("\t".join(_row(norm)) for norm in norms))


def _row(norm: NormInfo) -> tuple[str, ...]:
    facts = (norm.batch_dependent, bool(norm.state), norm.includes_activation)
    return (norm.name, norm.reduces_over or "-", *("yes" if fact else "no" for fact in facts), norm.paper or "-")


def table(rows: Sequence[Sequence[str]], width: int) -> str:
    """Align columns two spaces apart, the last as wide as the terminal allows.

    If that is too narrow, leave columns out: from the second last to the third, then the last.
    """
    *widths, last = (max(map(len, column)) for column in zip(*rows, strict=True))

    def room() -> int:
        return width - sum(widths) - 2 * len(widths)

    while room() < min(last, LEAST_PAPER) and len(widths) > 2:
        widths.pop()
    last = min(last, room()) if room() >= min(last, LEAST_PAPER) else 0
    lines = []
    for row in rows:
        padded = [cell.ljust(column) for cell, column in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, _shortened(row[-1], last)] if last else padded).rstrip())
    return "\n".join(_shortened(line, max(width, 1)) for line in lines)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def as_json(norm: NormInfo) -> dict[str, Any]:
    """Return every fact of a norm in types that JSON has; a required argument has no default."""
    file, line = source(norm) or (None, None)
    arguments = {
        name: {} if default is inspect.Parameter.empty else {"default": _plain(default)}
        for name, default in norm.arguments.items()
    }
    facts = {fact: value for fact, value in vars(norm).items() if fact != "build"}
    return {**facts, "summary": norm.summary, "arguments": arguments, "file": file, "line": line}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
