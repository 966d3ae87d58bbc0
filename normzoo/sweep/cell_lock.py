"""Lock a cell's folder: whoever holds the lock runs the cell."""

import contextlib
import errno
import fcntl
import logging
import os
import stat
from enum import Enum
from multiprocessing import reduction
from pathlib import Path
from typing import Any, Self

from normzoo.errors import cannot_write

FILE_NAME = ".claim"
# The files that a sweep or its cell reads or writes in the cell's folder.
FILES = (FILE_NAME, "result.json", "cell.log", "error.txt", "curve.json", "checkpoint.ckpt", "recording.npz")
# On a file system without locks sweeps still run, and the user keeps two of them out of one folder.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

log = logging.getLogger("normzoo")


class Elsewhere(Enum):
    """Why a cell is not run here, now."""

    RUNS = "another sweep runs it"
    DONE = "another sweep has run it"


class CellLock:
    """The right to run one cell; get it with `CellLock.acquire`.

    The lock belongs to the open file, which the cell's processes inherit: it is held until all of them are gone, even
    if the sweep that acquired it is killed.
    """

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder, self.descriptor = folder, descriptor

    @classmethod
    def acquire(cls, folder: Path) -> Self | None:
        """Lock the cell in `folder`, which is made if absent; None if another process holds the lock.

        Raises:
            UserError: If the folder cannot be written.
        """
        path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                # One look: another sweep may remove the file between two.
                with contextlib.suppress(FileNotFoundError):
                    if not stat.S_ISREG((folder / name).stat().st_mode):
                        raise FileExistsError(errno.EEXIST, f"{name} in it is not a file")
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                if not _lock(descriptor):
                    os.close(descriptor)
                    return None
                # Whoever released the lock has removed the file, and a lock on a removed file excludes nobody.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                        return cls(folder, descriptor)
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(folder, error, "hydra.sweep.dir, or repair this one") from error

    def release(self) -> None:
        """Unlock the cell, and remove half-written files: nobody is left to finish them."""
        try:
            for left in (*self.folder.glob(".*.tmp"), *self.folder.glob(".probe-*"), self.folder / FILE_NAME):
                with contextlib.suppress(OSError):
                    left.unlink()
        finally:
            os.close(self.descriptor)


class Inherited:
    """A file descriptor that a new process gets as an argument of its target."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _inherited, (reduction.DupFd(self.descriptor),)


def _inherited(passed: Any) -> Inherited:
    return Inherited(passed.detach())


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("this file system has no locks: run one sweep at a time into this folder")
    return True
