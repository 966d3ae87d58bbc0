"""Errors a user can mend."""

import sys
from pathlib import Path
from typing import NoReturn

from normzoo.text import printable


class UserError(Exception):
    """Something the user asked for cannot be, and the message says how to mend it.

    The message states what was wrong, what was expected and how to mend it; the command line prints it on its own,
    without a traceback, and exits with code 2.
    """

    at_command_line: str | None = None
    """What the command line prints instead, where the message speaks of Python."""


def cannot_write(folder: Path, error: OSError, option: str) -> UserError:
    """Of a folder that results cannot go into; `option` chooses another."""
    return UserError(f"cannot write into {folder}: {error.strerror or error}; choose another folder with {option}")


def exit_with(error: UserError) -> NoReturn:
    """Print the error on a line of its own and end the process with code 2."""
    sys.stderr.write(printable(f"error: {error.at_command_line or error}\n"))
    sys.exit(2)
