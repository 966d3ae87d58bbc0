"""Errors that the user can fix."""

import sys
from pathlib import Path
from typing import NoReturn

from normzoo.text import printable


class UserError(Exception):
    """A request that cannot be fulfilled; the message says how to fix it.

    The message states what was wrong, what was expected and how to fix it. The command line prints it without a
    traceback and exits with code 2.
    """

    at_command_line: str | None = None
    """Message for the command line, if the usual one refers to Python."""


class RefusedError(UserError):
    """A combination that cannot run, though each of its parts can: an instance norm on a 1×1 map, for instance."""


def cannot_write(folder: Path, error: OSError, option: str) -> UserError:
    """Return the error of a folder that results cannot be written to; `option` chooses another."""
    return UserError(f"cannot write into {folder}: {error.strerror or error}; choose another folder with {option}")


def exit_with(error: UserError) -> NoReturn:
    """Print the error on one line and exit with code 2."""
    sys.stderr.write(printable(f"error: {error.at_command_line or error}\n"))
    sys.exit(2)
