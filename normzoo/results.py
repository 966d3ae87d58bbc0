"""The record of one cell: its schema, and reading and writing records.

A *cell* is one resolved configuration (norm, batch size, placement, model, data, seed ...). It writes one
`result.json`, once. Training writes these files and the report reads them, independently of each other. This module
needs only the standard library, so that records can be read without the rest of normzoo's dependencies.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from reprlib import repr as short
from types import ModuleType
from typing import TYPE_CHECKING, Any

from normzoo.errors import UserError
from normzoo.files import read_file as read_file
from normzoo.files import write_atomic as write_atomic
from normzoo.identity import plain
from normzoo.text import LARGEST, bounded

if TYPE_CHECKING:
    import pandas

SCHEMA = 1
FILE_NAME = "result.json"
NO_RECORD = "none"  # the stamp of a folder without one
STATUSES = ("ok", "diverged", "error", "killed", "oom", "timeout", "pruned", "refused")
FINISHED = ("ok", "diverged")  # training again would only repeat the result

_REQUIRED = ("cell", "status", "config")
_KINDS: dict[str, Any] = {
    "cell": str, "status": str, "config": dict, "reason": (str, type(None)), "seed": int, "world_size": int,
    "metrics": dict, "curve": list, "values_per_statistic": dict, "normalization_batch": (int, type(None)),
    "time": dict, "device": dict, "versions": dict,
}  # fmt: skip
_MAX_DEPTH = 50  # levels of nested lists and mappings


class NewerSchemaError(UserError):
    """A record was written by a later version of normzoo, which this one can neither read nor replace."""


@dataclass(kw_only=True)
class CellResult:
    """The configuration and result of one cell.

    Metrics named `*error*` are percentages; a non-finite metric is None. `values_per_statistic` maps a norm layer's
    name to n, the number of values averaged by one of its means in training; `normalization_batch` is the number of
    samples that share a statistic.
    """

    cell: str
    status: str
    config: dict[str, Any]
    reason: str | None = None
    seed: int = 0
    world_size: int = 1
    metrics: dict[str, float | None] = field(default_factory=dict)
    curve: list[dict[str, float | None]] = field(default_factory=list)
    values_per_statistic: dict[str, int] = field(default_factory=dict)
    normalization_batch: int | None = None
    time: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    # Where the record was read from; a fact about the file, not part of it.
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r} is none of {', '.join(STATUSES)}")


def _fault(record: dict[str, Any]) -> str | None:
    """Return what is wrong with a record; None for a valid one."""
    for name, kind in _KINDS.items():
        if name not in record and name not in _REQUIRED:
            continue
        value = record.get(name)
        # bool is a subclass of int, but never a valid count.
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"`{name}` is {short(value)}"
        if isinstance(value, int) and abs(value) >= 2**63:
            return f"`{name}` is {short(value)}, out of range"
    if record["status"] not in STATUSES:
        return f"status {short(record['status'])} is none of {', '.join(STATUSES)}"
    numbers = {name: record.get(name, {}) for name in ("metrics", "values_per_statistic")}
    numbers |= {f"curve[{i}]": point for i, point in enumerate(record.get("curve", ()))}
    for where, values in numbers.items():
        if not isinstance(values, dict):
            return f"`{where}` is {short(values)}, not a point: `curve` holds mappings"
        for key, value in values.items():
            if not isinstance(value, (int, float, type(None))):
                return f"`{where}.{key:.60}` is {short(value)}, not a number"
            if value is not None and not -LARGEST <= value <= LARGEST:
                return f"`{where}.{key:.60}` is {short(value)}, out of range"
    for name in ("config", "time", "device", "versions"):
        if _is_deep(record.get(name), _MAX_DEPTH):
            return f"`{name}` has more than {_MAX_DEPTH} levels"
    return None


def _is_deep(value: Any, levels: int) -> bool:
    within = [value]
    for _ in range(levels + 1):
        within = [each for each in within if type(each) is dict or type(each) is list]
        if not within:
            return False
        within = [entry for each in within for entry in (each.values() if type(each) is dict else each)]
    return True


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
    for name in (entry.name for entry in fields(result) if entry.name != "folder"):
        value = getattr(result, name)
        if name == "reason" and value:
            value = bounded(value)  # error.txt has more of it
        record[name] = plain(value, name, missing="text" if name == "config" else "null")
    wrong = _fault(record)
    if wrong:
        raise TypeError(f"no record of a cell: {wrong}")
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def stamp(folder: str | os.PathLike[str]) -> str:
    """Return a value that changes with each new record in a cell's folder; `NO_RECORD` without one."""
    try:
        found = (Path(folder) / FILE_NAME).stat()
    except OSError:
        return NO_RECORD
    return f"{found.st_ino}-{found.st_mtime_ns}"  # each record is a new file, moved to its place


def read_result(path: str | os.PathLike[str]) -> CellResult:
    """Read one record, given its file or folder.

    Raises:
        UserError: If the file is missing, corrupt, of another schema or not a record; the message names it.
    """
    file = Path(path)
    return _read(str(file / FILE_NAME if file.is_dir() else file))


def read_results(root: str | os.PathLike[str]) -> tuple[list[CellResult], list[str]]:
    """Read every `result.json` below `root`, in the order of their paths; a bad file does not affect the others.

    Returns:
        The records, and a message for each file that could not be read.

    Raises:
        UserError: If `root` is not a folder.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a folder; give the folder that a sweep wrote its cells into.")
    results: list[CellResult] = []
    unreadable: list[str] = []
    for file in _result_files(str(Path(root))):
        try:
            results.append(_read(file))
        except UserError as error:
            unreadable.append(str(error))
    return results, unreadable


def _read(file: str) -> CellResult:
    try:
        record = json.loads(read_file(file).decode(), parse_constant=_refuse_constant)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is corrupt ({bounded(str(error), 300)}); remove it and run its cell again.") from error
    if not isinstance(record, dict) or "schema" not in record or "cell" not in record:
        raise UserError(f"{file} is not a normzoo result (it has no `schema` and `cell`); it was left out.")
    schema = record["schema"]
    if schema != SCHEMA:
        mismatch = f"{file} has schema {short(schema)} and this normzoo reads schema {SCHEMA}"
        if type(schema) is int and schema > SCHEMA:
            how = "Read it with the version that wrote it, or choose another folder."
            raise NewerSchemaError(f"{mismatch}: it is kept. {how}")
        raise UserError(f"{mismatch}; read it with the version that wrote it, or run its cell again.")
    wrong = _fault(record)
    if wrong:
        raise UserError(f"{file} is no valid result: {wrong}; remove it and run its cell again.")
    return CellResult(**{name: record[name] for name in _KINDS if name in record}, folder=Path(os.path.dirname(file)))


def _result_files(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        yield os.path.join(folder, FILE_NAME)  # reading it reports why the folder cannot be listed
        return
    for entry in entries:
        if entry.name == FILE_NAME:
            yield entry.path
        # Skipping Hydra's folder in every cell halves the walk.
        elif entry.name != ".hydra" and entry.is_dir(follow_symlinks=False):
            yield from _result_files(entry.path)


class _Callable(ModuleType):
    """Makes this module the function `normzoo.results(folder)` as well."""

    def __call__(self, folder: str | os.PathLike[str]) -> "pandas.DataFrame":
        """Return a data frame with a row per cell; see `normzoo.report.data_frames.results`."""
        try:
            from normzoo.report.data_frames import results
        except ModuleNotFoundError as error:
            raise UserError(f"normzoo.results needs {error.name}: pip install 'normzoo[sweep]'") from error
        return results(folder)


sys.modules[__name__].__class__ = _Callable  # as the language reference has it for modules


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not strict JSON")
