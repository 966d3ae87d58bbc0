"""The record of one cell, and its validation."""

from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

from normzoo.text import LARGEST

SCHEMA = 1
FILE_NAME = "result.json"
STATUSES = ("ok", "diverged", "error", "killed", "oom", "timeout", "refused")
FINISHED = ("ok", "diverged")  # training again would only repeat the result


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


_REQUIRED = frozenset({"cell", "status", "config"})
KINDS: dict[str, Any] = {
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


# Exact types, as JSON produces them: faster to check than isinstance.
_EXACT = {name: frozenset(kind) if isinstance(kind, tuple) else frozenset({kind}) for name, kind in KINDS.items()}
_MAX_DEPTH = 50  # levels of nested lists and mappings


def fault(record: dict[str, Any]) -> str | None:
    """Return what is wrong with a record; None for a valid one."""
    for name, kind in KINDS.items():
        value = record.get(name)
        exact = type(value) in _EXACT[name]
        if name not in record and name not in _REQUIRED:
            continue
        # bool is a subclass of int, but never a valid count.
        if not exact and (not isinstance(value, kind) or isinstance(value, bool)):
            return f"`{name}` is {short(value)}"
        if isinstance(value, int) and abs(value) >= 2**63:
            return f"`{name}` is {short(value)}, out of range"
    if record["status"] not in STATUSES:
        return f"status {short(record['status'])} is none of {', '.join(STATUSES)}"
    if not all(isinstance(point, dict) for point in record.get("curve", ())):
        return "`curve` holds something that is not a point"
    for name in ("metrics", "values_per_statistic"):
        if wrong := _no_number(name, record.get(name, {})):
            return wrong
    for i, point in enumerate(record.get("curve", ())):
        if wrong := _no_number(f"curve[{i}]", point):
            return wrong
    for name in ("config", "time", "device", "versions"):
        if _is_deep(record.get(name), _MAX_DEPTH):
            return f"`{name}` has more than {_MAX_DEPTH} levels"
    return None


def _no_number(where: str, values: dict[str, Any]) -> str | None:
    for key, value in values.items():
        if not isinstance(value, (int, float, type(None))):
            return f"`{where}.{key:.60}` is {short(value)}, not a number"
        if value is not None and not -LARGEST <= value <= LARGEST:
            return f"`{where}.{key:.60}` is {short(value)}, out of range"
    return None


def _is_deep(value: Any, levels: int) -> bool:
    if type(value) not in (dict, list):
        return False
    within = value.values() if type(value) is dict else value
    return not levels or any(_is_deep(entry, levels - 1) for entry in within if type(entry) in (dict, list))
