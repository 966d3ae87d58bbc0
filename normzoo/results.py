"""The record of one cell: what is written, how a cell is named, and how records are read back.

A *cell* is one resolved configuration (norm, batch size, placement, model, data, seed ...). It writes one
`result.json`, once. Training writes these files, the report reads them, and neither knows of the other. Only the
standard library is used, so that a record can be read where nothing else of the package is wanted.
"""

import contextlib
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from normzoo.errors import UserError

SCHEMA = 1
FILE_NAME = "result.json"
STATUSES = ("ok", "diverged", "error", "killed", "oom", "timeout", "refused")

# Entries of a config that change where a cell writes or what it prints, never what it computes.
_NO_IDENTITY = frozenset(
    {"hydra", "logger", "paths", "output_dir", "progress", "verbose", "experiment", "sweep", "report", "claim"}
)
_NO_IDENTITY_WITHIN = {
    "trainer": frozenset(
        {
            "progress",
            "progress_bar",
            "enable_progress_bar",
            "enable_model_summary",
            "enable_checkpointing",
            "log_every_n_steps",
        }
    ),
    "data": frozenset({"download", "num_workers"}),  # not root: another root may hold other images
}


@dataclass(kw_only=True)
class CellResult:
    """What one cell was and what came of it.

    Metrics named `*error*` are percentages; a metric that was not a finite number is None. `values_per_statistic` maps
    a norm layer's name to n, the number of values one of its means averages in training; `normalization_batch` is the
    number of samples that share a statistic.
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


def cell_id(config: Mapping[str, Any]) -> str:
    """Name a cell by what decides its result: 12 hex digits of the SHA-256 of its config.

    The order of keys, `1` against `1.0`, and entries that only steer output (`hydra`, `logger`, `paths`, `experiment`,
    `sweep`, progress switches) leave the name as it is.

    Raises:
        TypeError: the config holds something that is not plain data.
    """
    text = json.dumps(
        _integral(_plain(decisive(config), "config", missing="text")),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that decides what its cell computes: all but the entries that only steer output."""
    kept = {str(key): value for key, value in config.items() if str(key) not in _NO_IDENTITY}
    for group, names in _NO_IDENTITY_WITHIN.items():
        if isinstance(kept.get(group), Mapping):
            kept[group] = {key: value for key, value in kept[group].items() if str(key) not in names}
    return kept


def write_result(folder: str | os.PathLike[str], result: CellResult) -> Path:
    """Write `result` as `result.json` into `folder` (made if absent): the whole file appears, or nothing changes.

    Raises:
        UserError: the folder cannot be written.
        TypeError: the record holds something that is not plain data.
    """
    record: dict[str, Any] = {"schema": SCHEMA}
    for entry in fields(result):
        if entry.name == "folder":
            continue
        value = getattr(result, entry.name)
        record[entry.name] = _plain(value, entry.name, missing="text" if entry.name == "config" else "null")
    fault = _fault(record)
    if fault:
        raise TypeError(f"no record of a cell: {fault}")
    return write_atomic(Path(folder) / FILE_NAME, json.dumps(record, indent=1, allow_nan=False) + "\n")


def read_result(path: str | os.PathLike[str]) -> CellResult:
    """Read one record, given its file or the folder it lies in.

    Raises:
        UserError: the file is missing, corrupt, of another schema or no record of ours; the message names it.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
    return _read(file)


def read_results(root: str | os.PathLike[str]) -> tuple[list[CellResult], list[str]]:
    """Read every `result.json` below `root`, in the order of their paths.

    Returns the records, and a message for each file that could not be read; one bad file never hides the others.

    Raises:
        UserError: `root` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that a sweep wrote its cells into.")
    results: list[CellResult] = []
    unreadable: list[str] = []
    for file in map(Path, _result_files(str(root))):
        try:
            results.append(_read(file))
        except UserError as error:
            unreadable.append(str(error))
    return results, unreadable


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write `content` to `path` so that a reader, or a crash at any instant, sees the old file or the new one.

    Raises:
        UserError: the folder cannot be made or written.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    # Named after its writer, so that two processes writing the same cell never share a half-written file.
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


def _read(file: Path) -> CellResult:
    try:
        record = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is corrupt ({error}); remove it and run its cell again.") from error
    if not isinstance(record, dict) or "schema" not in record or "cell" not in record:
        raise UserError(f"{file} is not a normzoo result (it has no `schema` and `cell`); it was left out.")
    if record["schema"] != SCHEMA:
        raise UserError(
            f"{file} has schema {record['schema']!r} and this normzoo reads schema {SCHEMA}; "
            "read it with the version that wrote it, or run its cell again."
        )
    fault = _fault(record)
    if fault:
        raise UserError(f"{file} is no valid result: {fault}; remove it and run its cell again.")
    return CellResult(**{name: record[name] for name in _KINDS if name in record}, folder=file.parent)


_REQUIRED = frozenset({"cell", "status", "config"})
_KINDS: dict[str, Any] = {
    "cell": str,
    "status": str,
    "config": dict,
    "reason": (str, type(None)),
    "seed": int,
    "world_size": int,
    "metrics": dict,
    "curve": list,
    "values_per_statistic": dict,
    "normalization_batch": (int, type(None)),
    "time": dict,
    "device": dict,
    "versions": dict,
}


def _fault(record: dict[str, Any]) -> str | None:
    for name, kind in _KINDS.items():
        if name not in record and name not in _REQUIRED:
            continue
        value = record.get(name)
        # bool is an int to Python, and no count of ours is one.
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"`{name}` is {value!r:.60}"
    if record["status"] not in STATUSES:
        return f"status {record['status']!r:.60} is none of {', '.join(STATUSES)}"
    for name in ("metrics", "values_per_statistic"):
        for key, value in record.get(name, {}).items():
            if not isinstance(value, (int, float, type(None))):
                return f"`{name}.{key}` is {value!r:.60}, not a number"
    if not all(isinstance(point, dict) for point in record.get("curve", ())):
        return "`curve` holds something that is not a point"
    return None


def _result_files(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        # Left to the reader of the file, who says why it cannot be read.
        yield os.path.join(folder, FILE_NAME)
        return
    for entry in entries:
        if entry.name == FILE_NAME:
            yield entry.path
        # Hydra keeps a folder of its own in every cell; not entering it halves the walk.
        elif entry.name != ".hydra" and entry.is_dir(follow_symlinks=False):
            yield from _result_files(entry.path)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not strict JSON")


def _plain(value: Any, where: str, *, missing: str) -> Any:
    """Turn `value` into strict JSON data; a number that is not finite becomes null, or its name as text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value.name if isinstance(value, Enum) else value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return str(float(value)) if missing == "text" else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, f"{where}.{key}", missing=missing) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(entry, f"{where}[{i}]", missing=missing) for i, entry in enumerate(value)]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a NumPy or torch scalar
        return _plain(value.item(), where, missing=missing)
    raise TypeError(f"{where} is a {type(value).__name__}, not plain data (text, number, list, mapping)")


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integral(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_integral(entry) for entry in value]
    # YAML reads `lr=1` as an int and `lr=1.0` as a float, and both train the same cell.
    return int(value) if isinstance(value, float) and value.is_integer() else value
