"""The machine that a cell runs on: its processor cores, its disks, and a folder for sockets.

Processes of a program talk by sockets. multiprocessing would put them into a folder below TMPDIR, whose path may be too
long for a socket's, and leave it there when the program is killed. Ours is short and private, and the next program
removes what killed ones have left.
"""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import platform
import shutil
import stat
import tempfile
import time
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from normzoo.errors import UserError

PREFIX = "normzoo-"
LONGEST = 60  # characters of a folder's path, to which some 30 are added; every system takes 103 for a socket
NEW_S = 60.0  # a folder older than this has been locked by its program, if it is ever going to be


def processor_cores() -> list[int]:
    """Return the numbers of the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@cache
def processor_name() -> str:
    """Return the kernel's name of the processor, or else the machine's type."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def short_folder(longest: int | None = None) -> str:
    """Return a folder for temporary files with short paths: TMPDIR, or /tmp where that is too long.

    Args:
        longest: The number of characters that its path may have; None for `LONGEST`.

    Raises:
        UserError: If there is none.
    """
    usual, longest = tempfile.gettempdir(), longest or LONGEST
    found = next((one for one in (usual, "/tmp", "/var/tmp") if len(one) <= longest and os.access(one, os.W_OK)), None)
    if found is None:
        raise UserError(f"TMPDIR={usual} is too long for a socket, and /tmp cannot be written: set a shorter one")
    return found


def make_sockets_folder() -> None:
    """Make one folder for the sockets of this process and those it starts.

    Raises:
        UserError: If it cannot be made.
    """
    config: Any = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # children get a copy of it
    if config.get("tempdir"):
        return
    parent = short_folder()
    for left in Path(parent).glob(f"{PREFIX}*"):
        _remove_left(left)
    try:
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
        _lock(folder)  # for as long as a process of this program lives
    except OSError as error:
        raise UserError(f"cannot make a folder in {parent}: {error.strerror}; set TMPDIR to another") from error
    config["tempdir"] = folder
    Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-100)


def where_full(message: str, folder: Path) -> str:
    """Return, in brackets, the full disks that a cell in `folder` writes to, if an error message says that one is."""
    if not any(os.strerror(number) in message for number in (errno.ENOSPC, errno.EDQUOT)):
        return ""
    full = []
    for place in (str(folder), tempfile.gettempdir(), "/dev/shm"):
        with contextlib.suppress(OSError):
            disk = os.statvfs(place)
            if disk.f_bavail * disk.f_frsize < 2**20 or (disk.f_files and not disk.f_favail):
                full.append(place)
    return f" (full: {', '.join(full)})" if full else ""


def _lock(folder: str | Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_left(folder: Path) -> None:
    with contextlib.suppress(OSError):  # in use, or owned by another user
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and time.time() - found.st_mtime > NEW_S:
            descriptor = _lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
