"""What ties a process to its parent: it dies with the parent, and a cell shows a supervisor that it is alive."""

import contextlib
import ctypes
import os
import signal
import sys
import time
from multiprocessing import parent_process

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)
LOG = "NORMZOO_LOG"  # the environment variable with the path of the cell's log
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_last = -1.0


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process by the system call prctl, on Linux."""
    if _LIBC is not None:
        _LIBC.prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent dies, on Linux.

    Args:
        parent: Its process id; by default, that of the process that started this one through multiprocessing.
    """
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    started_by = parent_process()
    parent = parent or (started_by.pid if started_by else None)
    if _LIBC is not None and parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # the parent died before the kernel was told


def give_sign_of_life(*_: object) -> None:
    """Touch the cell's log, at most once a second; do nothing without a supervisor, which watches its time."""
    global _last
    if LOG in os.environ and time.monotonic() - _last >= 1.0:
        _last = time.monotonic()
        with contextlib.suppress(OSError):
            os.utime(os.environ[LOG])
