"""Write the command that resumes a sweep or a single cell."""

import os
import re
import shlex
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

# What the command must not repeat: its folder is given anew, and a resumed sweep skips finished cells.
_DROPPED = ("hydra.sweep.dir", "sweep.resume", "sweep.dry_run")

# The key by which a command other than `normzoo train` tells its sweep what the user typed.
COMMAND = "hydra.callbacks.report.command"


def command_of(config: Any) -> str:
    """Return what the user typed, given the sweep's configuration."""
    from omegaconf import OmegaConf

    command: str | None = OmegaConf.select(config, COMMAND)
    return command or shlex.join(["normzoo", "train", *sys.argv[1:]])


def go_on(folder: str | os.PathLike[str], command: str, **options: str) -> str:
    """Return the command line that resumes the sweep in `folder`, quoted for a shell.

    Args:
        folder: The sweep's.
        command: The one that started it, from `command_of`.
        options: Options of the `sweep` block to set: `retry="failed"`.
    """
    words = _without(command, {*_DROPPED, *(f"sweep.{name}" for name in options)})
    folder = Path(folder)
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    target = [f"hydra.sweep.dir={hydra_quoted(str(folder))}"] if words[1] == "train" else ["--dir", str(folder)]
    return shlex.join([*words, *(f"sweep.{name}={value}" for name, value in options.items()), *target])


def go_on_alone(folder: str | os.PathLike[str]) -> str:
    """Return the command line that resumes the single cell in `folder`, quoted for a shell."""
    words = _without(shlex.join(["normzoo", "train", *sys.argv[1:]]), {"hydra.run.dir", "sweep.resume"})
    return shlex.join([*words, f"hydra.run.dir={hydra_quoted(str(folder))}"])


def anew(command: str) -> str:
    """Return the command line of a sweep without where it writes and what it skips."""
    return shlex.join(_without(command, {*_DROPPED, "sweep.retry"}))


def _without(command: str, dropped: Container[str]) -> list[str]:
    return [word for word in shlex.split(command) if word.lstrip("+").split("=")[0] not in dropped]


def hydra_quoted(value: str) -> str:
    """Quote a text so that Hydra reads it back, whatever characters are in it."""
    if re.fullmatch(r"[\w./:@%+-]+", value, flags=re.ASCII):
        return value
    quote = "'" if '"' in value else '"'  # the shell's own quotes are single ones
    # Backslashes count only before a quote, the closing one among them.
    doubled = re.sub(rf"(\\*)({quote}|$)", r"\1\1\2", value)
    return quote + doubled.replace(quote, f"\\{quote}") + quote
