"""The identity of a cell: what of its configuration determines its result, and the name made of that."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from normzoo.text import LARGEST

# Entries of a config that affect where a cell writes or what it prints, but not what it computes.
_NO_IDENTITY = {
    "hydra", "logger", "paths", "output_dir", "progress", "verbose", "experiment", "sweep", "report", "claim", "recipe",
}  # fmt: skip
_NO_IDENTITY_WITHIN = {
    "trainer": {
        "progress", "progress_bar", "enable_progress_bar", "enable_model_summary", "enable_checkpointing",
        "log_every_n_steps",
    },
    "data": {"download", "num_workers"},  # not root: another root may have other images
    "norm": {"_target_"},  # for Hydra's instantiate; `name` says which norm
}  # fmt: skip
# Callbacks of Lightning that only watch a training; any other belongs to what a cell is.
_WATCHING = {
    "DeviceStatsMonitor", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "OnExceptionCheckpoint",
    "RichModelSummary", "RichProgressBar", "TQDMProgressBar", "ThroughputMonitor",
}  # fmt: skip
# Options that came after cells had been named: one that has its default names no other cell.
_ADDED = {"norm": {"bias": True, "contiguous": False, "weight_offset": 0.0, "cast_before_weight": False}}
# For Lightning 1 is one batch and 1.0 is all of them.
_COUNT_OR_SHARE = {"limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval"}


def cell_id(config: Mapping[str, Any]) -> str:
    """Name a cell by what determines its result: 12 hex digits of the SHA-256 of its config.

    The order of keys, `1` versus `1.0`, and entries that only affect output (`hydra`, `logger`, `paths`, `experiment`,
    `sweep`, progress switches) do not change the name.

    Raises:
        TypeError: If the config contains something that is not plain data.
    """
    values = _integral(plain(decisive(config), "config", missing="text"))
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a config that determines what its cell computes: all but what only affects output."""
    kept = {str(key): value for key, value in config.items() if str(key) not in _NO_IDENTITY}
    for group, names in _NO_IDENTITY_WITHIN.items():
        if isinstance(kept.get(group), Mapping):
            added = _ADDED.get(group, {})
            kept[group] = {
                key: value
                for key, value in kept[group].items()
                if str(key) not in names and not (key in added and value == added[key])
            }
    callbacks = kept.pop("callbacks", None) or {}
    if isinstance(callbacks, Mapping):
        callbacks = {name: _decisive_of(one) for name, one in callbacks.items() if not _only_watches(one)}
    return {**kept, "callbacks": callbacks} if callbacks else kept


def _decisive_of(callback: Any) -> Any:
    """Leave out the folder that a callback writes into."""
    return {k: v for k, v in callback.items() if k != "dirpath"} if isinstance(callback, Mapping) else callback


def _only_watches(callback: Any) -> bool:
    """Return whether a callback, given its options, does not change what a cell computes."""
    path = str(callback.get("_target_") if isinstance(callback, Mapping) else "").split(".")
    return path[0] in ("lightning", "pytorch_lightning") and path[-1] in _WATCHING


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: entry if key in _COUNT_OR_SHARE else _integral(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_integral(entry) for entry in value]
    # YAML reads `lr=1` as an int and `lr=1.0` as a float, and both train the same cell.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def plain(value: Any, where: str, *, missing: str) -> Any:
    """Convert `value` to strict JSON data; a non-finite number becomes null, or its name as text.

    A number whose square overflows counts as non-finite.
    """
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value) and (missing == "text" or abs(value) <= LARGEST):
            return float(value)
        return str(float(value)) if missing == "text" else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry, f"{where}.{key}", missing=missing) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(entry, f"{where}[{i}]", missing=missing) for i, entry in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a NumPy or torch scalar
        return plain(value.item(), where, missing=missing)
    raise TypeError(f"{where} is a {type(value).__name__}, not plain data (text, number, list, mapping)")
