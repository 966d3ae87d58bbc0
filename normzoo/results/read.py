"""Read records; a bad file is reported by name and does not affect the others."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short

from normzoo.errors import UserError
from normzoo.results.record import FILE_NAME, KINDS, SCHEMA, CellResult, fault
from normzoo.text import bounded

NO_RECORD = "none"


class NewerSchemaError(UserError):
    """A record was written by a later version of normzoo, which this one can neither read nor replace."""


def read_result(path: str | os.PathLike[str]) -> CellResult:
    """Read one record, given its file or folder.

    Raises:
        UserError: If the file is missing, corrupt, of another schema or not a record; the message names it.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
    return _read(str(file))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a file without blocking on a pipe and without reading a device.

    Raises:
        OSError: If it is not a regular file, or cannot be read.
    """
    with open(path, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file", os.fspath(path))
        return stream.read()


def stamp(folder: str | os.PathLike[str]) -> str:
    """Return a value that changes with each new record in a cell's folder; `NO_RECORD` without one."""
    try:
        found = (Path(folder) / FILE_NAME).stat()
    except OSError:
        return NO_RECORD
    return f"{found.st_ino}-{found.st_mtime_ns}"  # each record is a new file, moved to its place


def read_results(root: str | os.PathLike[str]) -> tuple[list[CellResult], list[str]]:
    """Read every `result.json` below `root`, in the order of their paths.

    Returns:
        The records, and a message for each file that could not be read.

    Raises:
        UserError: If `root` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that a sweep wrote its cells into.")
    results: list[CellResult] = []
    unreadable: list[str] = []
    for file in _result_files(str(root)):
        try:
            results.append(_read(file))
        except UserError as error:
            unreadable.append(str(error))
    return results, unreadable


def _read(file: str) -> CellResult:
    try:
        record = _DECODER.decode(read_file(file).decode())
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is corrupt ({bounded(str(error), 300)}); remove it and run its cell again.") from error
    if not isinstance(record, dict) or "schema" not in record or "cell" not in record:
        raise UserError(f"{file} is not a normzoo result (it has no `schema` and `cell`); it was left out.")
    schema = record["schema"]
    if type(schema) is int and schema > SCHEMA:
        raise NewerSchemaError(
            f"{file} has schema {short(schema)} and this normzoo reads schema {SCHEMA}: it is kept. Read it with the "
            "version that wrote it, or choose another folder."
        )
    if schema != SCHEMA:
        raise UserError(
            f"{file} has schema {short(schema)} and this normzoo reads schema {SCHEMA}; "
            "read it with the version that wrote it, or run its cell again."
        )
    wrong = fault(record)
    if wrong:
        raise UserError(f"{file} is no valid result: {wrong}; remove it and run its cell again.")
    return CellResult(**{name: record[name] for name in KINDS if name in record}, folder=Path(os.path.dirname(file)))


def _result_files(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        # Reading this file reports why the folder cannot be listed.
        yield os.path.join(folder, FILE_NAME)
        return
    for entry in entries:
        if entry.name == FILE_NAME:
            yield entry.path
        # Skipping Hydra's folder in every cell halves the walk.
        elif entry.name != ".hydra" and entry.is_dir(follow_symlinks=False):
            yield from _result_files(entry.path)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not strict JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
