"""Read and write whole files, whatever is at their paths and whenever the program ends."""

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path

from normzoo.errors import UserError


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a file without blocking on a pipe and without reading a device.

    Raises:
        OSError: If it is not a regular file, or cannot be read.
    """
    with open(path, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        return stream.read()


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write `content` to `path` atomically: a reader, or a crash at any time, sees the old file or the new one.

    Raises:
        UserError: If the folder cannot be created or written.
    """
    path = Path(path)
    # Bytes of names that are not UTF-8 are written as \\udcff, which JSON reads back.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    # Named after the writer, so that two processes writing the same cell never share a partial file.
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(draft, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written, with space left."
        ) from error
    return path
