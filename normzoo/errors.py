"""Errors a user can mend."""

import sys
from typing import NoReturn


class UserError(Exception):
    """Something the user asked for cannot be, and the message says how to mend it.

    The message states what was wrong, what was expected and how to mend it; the command line prints it on its own,
    without a traceback, and exits with code 2.
    """


def exit_with(error: UserError) -> NoReturn:
    """Print the error on a line of its own and end the process with code 2."""
    # What is looked up in Python by a call, is here by a command.
    sys.stderr.write(f"error: {error}\n".replace("normzoo.list_norms() lists", "`normzoo list` lists"))
    sys.exit(2)
