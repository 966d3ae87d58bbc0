"""Processes that die with their parent, where the kernel can see to it (Linux)."""

import ctypes
import os
import signal
import sys
from multiprocessing import parent_process

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)


def prctl(option: int, value: int) -> None:
    """Call prctl(2); do nothing on other systems."""
    if _LIBC is not None:
        _LIBC.prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent dies.

    Args:
        parent: Its process id; by default, that of the process that started this one through multiprocessing.
    """
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    started_by = parent_process()
    parent = parent or (started_by.pid if started_by else None)
    if _LIBC is not None and parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # the parent died before the kernel was told
