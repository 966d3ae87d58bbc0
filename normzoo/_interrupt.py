"""Ctrl-C while the `normzoo` command still imports torch: a short end instead of a long traceback."""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn


def _end(*_: object) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(130)


def is_command() -> bool:
    """Whether this process was started as `normzoo`, and not as a program that imports it or as a child of either."""
    return Path(sys.argv[0]).stem == "normzoo" and sys.argv[0] in sys.orig_argv


def handle_again() -> None:
    """Leave Ctrl-C to the command itself, now that it runs."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if sys.argv and is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
