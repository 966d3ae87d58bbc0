"""A folder for the sockets by which the processes of a program talk: short, private, and not left behind.

multiprocessing would make one below TMPDIR, whose path may be too long for a socket's, and leave it there when the
program is killed. What killed programs have left is removed by the next.
"""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import shutil
import stat
import tempfile
import time
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from normzoo.errors import UserError

PREFIX = "normzoo-"
LONGEST = 60  # characters of a path, to which some 30 are added, of 103 that every system takes
NEW_S = 60.0  # so old is a folder that has been locked, if it is ever going to be


def short_folder(longest: int | None = None) -> str:
    """Where temporary files of short paths go: TMPDIR, or /tmp where that is too long.

    Args:
        longest: Characters that its path may have; `LONGEST` if not told.

    Raises:
        UserError: If there is none.
    """
    usual, longest = tempfile.gettempdir(), longest or LONGEST
    found = next((one for one in (usual, "/tmp", "/var/tmp") if len(one) <= longest and os.access(one, os.W_OK)), None)
    if found is None:
        raise UserError(f"TMPDIR={usual} is too long for a socket, and /tmp cannot be written: set a shorter one")
    return found


def make_sockets_folder() -> None:
    """Have this process, and those it starts, put their sockets into a folder of its own; once.

    Raises:
        UserError: If it cannot be made.
    """
    config: Any = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # of which children get a copy
    if config.get("tempdir"):
        return
    above = short_folder()
    for left in Path(above).glob(f"{PREFIX}*"):
        _remove_left(left)
    try:
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=above)
        _lock(folder)  # for as long as a process of this program lives
    except OSError as error:
        raise UserError(f"cannot make a folder in {above}: {error.strerror}; set TMPDIR to another") from error
    config["tempdir"] = folder
    Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-100)


def where_full(said: str, folder: Path) -> str:
    """The full disks among those that a cell in `folder` writes to, in brackets, if an error says that one is."""
    if not any(os.strerror(number) in said for number in (errno.ENOSPC, errno.EDQUOT)):
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
    with contextlib.suppress(OSError):  # it is in use, or somebody else's
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and time.time() - found.st_mtime > NEW_S:
            descriptor = _lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
