"""Who runs a cell: the one that holds the lock on a file in its folder, while any process of the cell lives."""

import contextlib
import errno
import fcntl
import logging
import os
from multiprocessing import reduction
from pathlib import Path
from typing import Any, Self

from normzoo.errors import cannot_write

FILE_NAME = ".claim"
# What a sweep or its cell writes into the cell's folder, or reads there.
FILES = (FILE_NAME, "result.json", "cell.log", "error.txt", "curve.json", "checkpoint.ckpt", "recording.npz")
# A file system without locks: sweeps go on, and two of them into one folder are the user's to keep apart.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

log = logging.getLogger("normzoo")


class Claim:
    """The right to run one cell; take it with `Claim.take`.

    The lock belongs to the open file, which the cell's processes inherit: it is held until all of them are gone, also
    when the sweep that took it is killed. What the sweep has to say of the cell it says before it gives the claim back.
    """

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder, self.descriptor = folder, descriptor

    @classmethod
    def take(cls, folder: Path) -> Self | None:
        """Take the claim of the cell in `folder` (made if absent); None if another holds it.

        Raises:
            UserError: If the folder cannot be written.
        """
        path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                if (folder / name).exists() and not (folder / name).is_file():
                    raise FileExistsError(errno.EEXIST, f"{name} in it is no file, and has to be removed")
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                if not _lock(descriptor):
                    os.close(descriptor)
                    return None
                # Whoever gave it back has removed the file; a lock on what is no longer there holds nobody off.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                        return cls(folder, descriptor)
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(folder, error, "hydra.sweep.dir, or mend it") from error

    def give_back(self) -> None:
        """Let others have it, and take half-written files away: nobody is left to finish them."""
        try:
            for left in (*self.folder.glob(".*.tmp"), *self.folder.glob(".probe-*"), self.folder / FILE_NAME):
                with contextlib.suppress(OSError):
                    left.unlink()
        finally:
            os.close(self.descriptor)


class Inherited:
    """A file descriptor that is passed on to a process when it is started; of use there and nowhere else."""

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
