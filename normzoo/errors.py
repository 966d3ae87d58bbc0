"""Errors a user can mend."""


class UserError(Exception):
    """Something the user asked for cannot be, and the message says how to mend it.

    The message states what was wrong, what was expected and how to mend it; the command line prints it on its own,
    without a traceback, and exits with code 2.
    """
