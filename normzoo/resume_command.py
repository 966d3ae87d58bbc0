"""The command that goes on with a sweep, or with a single cell."""

import os
import re
import shlex
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

# What the command must not repeat: where it writes is said anew, and what has been done stays done.
_DROPPED = ("hydra.sweep.dir", "sweep.resume", "sweep.dry_run")

# The key under which a command that is no `normzoo train` tells the sweep it makes what the user has typed.
COMMAND = "hydra.callbacks.report.command"


def command_of(config: Any) -> str:
    """What the user of a sweep has typed, given the sweep's configuration."""
    from omegaconf import OmegaConf

    command: str | None = OmegaConf.select(config, COMMAND)
    return command or shlex.join(["normzoo", "train", *sys.argv[1:]])


def go_on(folder: str | os.PathLike[str], command: str, **options: str) -> str:
    """The command line that goes on with a sweep in `folder`, quoted for a shell.

    Args:
        folder: The sweep's.
        command: The one that began it, from `command_of`.
        options: Of the `sweep` block, to be set in this command: `retry="failed"`.
    """
    words = _without(command, {*_DROPPED, *(f"sweep.{name}" for name in options)})
    folder = Path(folder)
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    target = [f"hydra.sweep.dir={hydra_quoted(str(folder))}"] if words[1] == "train" else ["--dir", str(folder)]
    return shlex.join([*words, *(f"sweep.{name}={value}" for name, value in options.items()), *target])


def go_on_alone(folder: str | os.PathLike[str]) -> str:
    """The command line that goes on with the one cell in `folder`, quoted for a shell."""
    words = _without(shlex.join(["normzoo", "train", *sys.argv[1:]]), {"hydra.run.dir", "sweep.resume"})
    return shlex.join([*words, f"hydra.run.dir={hydra_quoted(str(folder))}"])


def anew(command: str) -> str:
    """The command line of a sweep, but for where it writes and what it skips."""
    return shlex.join(_without(command, {*_DROPPED, "sweep.retry"}))


def _without(command: str, dropped: Container[str]) -> list[str]:
    return [word for word in shlex.split(command) if word.lstrip("+").split("=")[0] not in dropped]


def hydra_quoted(value: str) -> str:
    """The text as Hydra reads it back, whatever characters are in it."""
    if re.fullmatch(r"[\w./:@%+-]+", value, flags=re.ASCII):
        return value
    quote = "'" if '"' in value else '"'  # the shell's own quotes are single ones
    # Backslashes count only before a quote, the closing one among them.
    doubled = re.sub(rf"(\\*)({quote}|$)", r"\1\1\2", value)
    return quote + doubled.replace(quote, f"\\{quote}") + quote
