"""The command that goes on with a sweep."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

# What the command must not repeat: where it writes is said anew, and what has been done stays done.
_DROPPED = ("hydra.sweep.dir", "sweep.resume", "sweep.dry_run")


def go_on(folder: str | os.PathLike[str], arguments: Sequence[str] | None = None, **options: str) -> str:
    """The command line that goes on with a sweep in `folder`, quoted for a shell.

    Args:
        folder: The sweep's.
        arguments: Of `normzoo train`, as they were given; None for those of this process.
        options: Of the `sweep` block, to be set in this command: `retry="failed"`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    dropped = {*_DROPPED, *(f"sweep.{name}" for name in options)}
    kept = [argument for argument in given if argument.lstrip("+").split("=")[0] not in dropped]
    folder = Path(folder)
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    chosen = [f"sweep.{name}={value}" for name, value in options.items()]
    return shlex.join(["normzoo", "train", *kept, *chosen, f"hydra.sweep.dir={hydra_quoted(str(folder))}"])


def hydra_quoted(value: str) -> str:
    """The text as Hydra reads it back, whatever characters are in it."""
    if re.fullmatch(r"[\w./:@%+-]+", value, flags=re.ASCII):
        return value
    # Backslashes count only before a quote, the closing one among them.
    doubled = re.sub(r"(\\*)('|$)", r"\1\1\2", value)
    return "'" + doubled.replace("'", "\\'") + "'"
