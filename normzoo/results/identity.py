"""Name a cell by the part of its configuration that determines its result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from normzoo.results.plain import plain

# Entries of a config that affect where a cell writes or what it prints, but not what it computes.
_NO_IDENTITY = frozenset(
    {
        "hydra",
        "logger",
        "paths",
        "output_dir",
        "progress",
        "verbose",
        "experiment",
        "sweep",
        "report",
        "claim",
        "recipe",
    }
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
    "data": frozenset({"download", "num_workers"}),  # not root: another root may have other images
    "norm": frozenset({"_target_"}),  # for Hydra's instantiate; `name` says which norm
}
# Options that came after cells had been named: one that has its default names no other cell.
_ADDED = {"norm": {"bias": True, "contiguous": False, "weight_offset": 0.0, "cast_before_weight": False}}


# For Lightning 1 is one batch and 1.0 is all of them.
_COUNT_OR_SHARE = frozenset({"limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval"})


def cell_id(config: Mapping[str, Any]) -> str:
    """Name a cell by what determines its result: 12 hex digits of the SHA-256 of its config.

    The order of keys, `1` versus `1.0`, and entries that only affect output (`hydra`, `logger`, `paths`, `experiment`,
    `sweep`, progress switches) do not change the name.

    Raises:
        TypeError: If the config contains something that is not plain data.
    """
    text = json.dumps(
        _integral(plain(decisive(config), "config", missing="text")),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
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
    return kept


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: entry if key in _COUNT_OR_SHARE else _integral(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_integral(entry) for entry in value]
    # YAML reads `lr=1` as an int and `lr=1.0` as a float, and both train the same cell.
    return int(value) if isinstance(value, float) and value.is_integer() else value
