"""Write files atomically."""

import contextlib
import json
import os
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

from normzoo.errors import UserError
from normzoo.results.plain import plain
from normzoo.results.read import NewerSchemaError, read_result
from normzoo.results.record import FILE_NAME, SCHEMA, CellResult, fault
from normzoo.text import bounded


def write_result(folder: str | os.PathLike[str], result: CellResult) -> Path:
    """Write `result` atomically as `result.json` to `folder`, which is created if needed.

    Raises:
        UserError: If the folder is not writable, or has a record of a later version.
        TypeError: If the record contains something that is not plain data.
    """
    check_no_newer(folder)
    return write_atomic(Path(folder) / FILE_NAME, record_text(result))


def check_no_newer(folder: str | os.PathLike[str]) -> None:
    """Check that no record of a later version would be replaced.

    Raises:
        NewerSchemaError: If there is one.
    """
    try:
        if os.path.lexists(Path(folder) / FILE_NAME):
            read_result(folder)
    except NewerSchemaError:
        raise
    except UserError:
        pass


def record_text(result: CellResult) -> str:
    """Return the record as the text of its file.

    Raises:
        TypeError: If it contains something that is not plain data.
    """
    record: dict[str, Any] = {"schema": SCHEMA}
    for entry in fields(result):
        if entry.name == "folder":
            continue
        value = getattr(result, entry.name)
        if entry.name == "reason" and value:
            value = bounded(value)  # error.txt has more of it
        record[entry.name] = plain(value, entry.name, missing="text" if entry.name == "config" else "null")
    wrong = fault(record)
    if wrong:
        raise TypeError(f"no record of a cell: {wrong}")
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


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
