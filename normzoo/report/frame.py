"""Turn the records of a sweep into one data frame: a row per cell, and the settings that the rows fall into.

A *setting* is everything that differs between cells of a folder beyond norm, batch size, placement, devices and seed.
It is found from the records: whatever entry of the configs takes several values splits the cells, with no label needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from normzoo.identity import decisive
from normzoo.report.facets import ABSENT, Setting, derived_entries, describe
from normzoo.report.records import flatten, without_repeats
from normzoo.results import CellResult

# Axes of the report itself, and entries that say where a cell ran rather than what it was.
_AXES = frozenset({"seed", "batch_size_per_device"})
_AXIS_GROUPS = ("norm.", "placement.")
WHERE_IT_RAN = frozenset(
    f"trainer.{key}" for key in ("name", "accelerator", "devices", "num_nodes", "strategy", "threads", "deterministic")
)
# The number of samples that share a statistic is an axis of its own, so it does not tell variants of a norm apart.
NORM_AXIS = "norm.group_size"
METRIC, CONFIG = "metrics.", "config."  # prefixes of columns
# The order of a reader's interest; other names follow alphabetically.
_NORMS_FIRST = (
    "batch_norm",
    "ghost_batch_norm",
    "sync_batch_norm",
    "group_norm",
    "layer_norm",
    "instance_norm",
    "identity",
)
_PLACEMENTS_FIRST = ("pre_act", "post_act", "all_but_last", "last_only", "first_only", "none")


@dataclass(frozen=True, eq=False)
class Table:
    """The cells of a folder.

    Args:
        cells: A row per cell. `record` is the record itself, `setting` the number of the setting. Columns `config.*`
            hold the entries of the configs, columns `metrics.*` the metrics of cells that finished.
        settings: The groups that can share a table, largest first.
        differing: Entries of the configs that take several values.
        repeated: Records left out because another record of the same cell was kept.
    """

    cells: pd.DataFrame
    settings: tuple[Setting, ...]
    differing: tuple[str, ...]
    repeated: int

    @cached_property
    def batch_norms(self) -> frozenset[str]:
        """Norms whose statistics were shared by several samples in some cell."""
        return frozenset(self.cells.norm[self.cells.normalization_batch > 1])

    @cached_property
    def partitioned(self) -> frozenset[str]:
        """Norms whose normalization batch varied while the batch of a step stayed the same."""
        step = self.cells.groupby(["setting", "norm", "placement", "devices", "batch"], sort=False, dropna=False)
        varied = step.normalization_batch.nunique() > 1
        return frozenset(varied[varied].index.get_level_values("norm"))

    @cached_property
    def _placements(self) -> list[str]:
        counts = self.cells.groupby(["setting", "placement"]).size().reset_index(name="cells")
        counts["other"] = counts.placement != "pre_act"
        ordered = counts.sort_values(["setting", "cells", "other", "placement"], ascending=[True, False, True, True])
        return list(ordered.drop_duplicates("setting").placement)

    def main_placement(self, setting: Setting) -> str:
        """Return the most frequent placement of a setting; `pre_act` if several tie."""
        return self._placements[setting.index]

    @cached_property
    def mainly_placed(self) -> pd.Series:
        """Whether each cell has the main placement of its setting."""
        return self.cells.placement == self.cells.setting.map(dict(enumerate(self._placements)))

    def of(self, setting: Setting) -> pd.DataFrame:
        """Return the cells of a setting."""
        return self.cells[self.cells.setting == setting.index]


def build_table(results: Iterable[CellResult]) -> Table:
    """Flatten the records, group them into settings and name the variants of norms and placements."""
    kept, repeated = without_repeats(results)
    texts: dict[str, str] = {}
    flats = [flatten(decisive(result.config), texts) for result in kept]
    entries = list(dict.fromkeys(key for flat in flats for key in flat))
    configs = pd.DataFrame([[flat.get(key, ABSENT) for key in entries] for flat in flats], None, entries, dtype=object)
    refused = pd.Series([result.status == "refused" for result in kept], dtype=bool)
    differing = _differing(configs)
    splitting = [key for key in differing if key not in _AXES | WHERE_IT_RAN and not key.startswith(_AXIS_GROUPS)]
    # Whatever follows from the batch in all cells that ran follows from it; an entry that only a refused cell has
    # otherwise sets that cell apart.
    ran = configs[~refused]
    among = {key for key in _differing(ran) if key in splitting}
    derived = derived_entries(ran, among) | derived_entries(configs, {*splitting} - among)
    settings, numbers = _settings(configs, flats, [key for key in splitting if key not in derived], refused)
    cells = pd.DataFrame(
        {
            "record": kept,
            "status": [result.status for result in kept],
            "reason": [" ".join((result.reason or "").split()) for result in kept],
            "norm": _named(configs, "norm"),
            "variant": _variants(configs, refused, "norm", skip=(NORM_AXIS,)),
            "batch": [_count(flat.get("batch_size_per_device")) for flat in flats],
            # A cell that died did not record it, and yet belongs at its place on the axis.
            "normalization_batch": [
                _count(result.normalization_batch) or _count(flat.get(NORM_AXIS))
                for result, flat in zip(kept, flats, strict=True)
            ],
            "placement": _variants(configs, refused, "placement"),
            "model": _named(configs, "model"),
            "data": _named(configs, "data"),
            "image_size": [flat.get("data.image_size") for flat in flats],
            "devices": [_devices(result, flat) for result, flat in zip(kept, flats, strict=True)],
            "seed": [result.seed for result in kept],
            "values_min": [
                min((n for n in result.values_per_statistic.values() if n and n > 0), default=None) for result in kept
            ],
        },
        dtype=object,
    ).astype(dict.fromkeys(("batch", "normalization_batch"), "Int64"))
    cells["setting"] = numbers
    names = list(dict.fromkeys(name for result in kept for name in result.metrics))
    finished = [result.metrics if result.status == "ok" else {} for result in kept]
    metrics = pd.DataFrame([[found.get(name) for name in names] for found in finished], None, names, dtype=float)
    cells = pd.concat([cells, metrics.add_prefix(METRIC), configs.add_prefix(CONFIG)], axis=1)
    order = cells[["setting", "norm", "variant", "placement", "devices", "batch", "normalization_batch", "seed"]].copy()
    order.insert(1, "first_norms", order.norm.map({name: i for i, name in enumerate(_NORMS_FIRST)}).fillna(99))
    order.insert(4, "first", order.placement.map({name: i for i, name in enumerate(_PLACEMENTS_FIRST)}).fillna(99))
    order[["batch", "normalization_batch"]] = order[["batch", "normalization_batch"]].fillna(0)
    cells = cells.loc[order.sort_values(list(order), kind="stable").index].reset_index(drop=True)
    return Table(cells, settings, differing, repeated)


def _named(configs: pd.DataFrame, group: str) -> list[str]:
    """Return each cell's choice in a group of the config."""
    names = configs.get(f"{group}.name")
    return ["?"] * len(configs) if names is None else ["?" if name == ABSENT else str(name) for name in names]


def _differing(configs: pd.DataFrame) -> tuple[str, ...]:
    """Find entries that take more than one value, an absent entry counting as a value; in the order of the configs."""
    return tuple(key for key in configs if configs[key].nunique(dropna=False) > 1)


def _settings(
    configs: pd.DataFrame, flats: Sequence[Mapping[str, Any]], splitting: Sequence[str], refused: pd.Series
) -> tuple[tuple[Setting, ...], pd.Series]:
    """Group cells by these entries, an absent one being null; return the settings, and that of each cell by number."""
    values = [[flat.get(key) for key in splitting] for flat in flats]
    entries = pd.DataFrame(values, configs.index, splitting, dtype=object)
    groups = entries.groupby(list(entries), sort=False, dropna=False).ngroup() if splitting else 0 * refused.astype(int)
    points = pd.Series(list(zip(_named(configs, "norm"), configs.get("batch_size_per_device", refused), strict=True)))
    sizes = points.groupby(groups).agg(["nunique", "size"])
    firsts = groups[~groups.duplicated()].index
    firsts = sorted(
        firsts,
        key=lambda i: (-sizes["nunique"][groups[i]], -sizes["size"][groups[i]], [*map(_in_order, entries.loc[i])]),
    )
    labels = describe(entries.loc[firsts], configs.loc[firsts])
    # Settings that ran are labelled without regard to those that were refused.
    ran = [i for i in firsts if not refused[groups == groups[i]].all()]
    labels |= describe(entries.loc[ran], configs.loc[ran])
    order = {groups[i]: number for number, i in enumerate(firsts)}
    return tuple(Setting(number, *labels[i]) for number, i in enumerate(firsts)), groups.map(order)


def _in_order(value: Any) -> tuple[bool, float, str]:
    """Sort numbers by size, before anything else."""
    number = isinstance(value, (int, float))
    return not number, value if number else 0.0, repr(value)


def _variants(configs: pd.DataFrame, refused: pd.Series, group: str, skip: Sequence[str] = ()) -> pd.Series:
    """Name each cell's norm (or placement), with the arguments in which cells of the same name differ.

    A refused cell renames nothing that ran: it has the name of what ran with the same arguments, or else one of its
    own, with all arguments in which it differs.
    """
    prefix = f"{group}."
    columns = [key for key in configs if key.startswith(prefix) and key not in (f"{prefix}name", *skip)]
    names = pd.Series(_named(configs, group), configs.index, dtype=object)
    variants = names.copy()
    for name, own in configs[columns].groupby(names, sort=False):
        out = refused[own.index]
        every = _differing(own)
        telling = every if out.all() else _differing(own[~out])
        keys = pd.Series([*map(tuple, own[list(every)].to_numpy())], own.index, dtype=object)
        stranger = out & ~keys.isin(keys[~out]) & ~out.all()
        for shown, cells in ((telling, own[~stranger]), (every, own[stranger])):
            labels = []
            for values in cells[list(shown)].to_numpy():
                arguments = zip(shown, values, strict=True)
                labels.append(", ".join(f"{key.removeprefix(prefix)}={value}" for key, value in arguments))
            variants[cells.index] = [f"{name}({label})" if label else name for label in labels]
    return variants


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _devices(result: CellResult, flat: Mapping[str, Any]) -> int:
    """Return how many devices a cell ran on, or was asked to."""
    devices, nodes = _count(flat.get("trainer.devices")), _count(flat.get("trainer.num_nodes"))
    return devices * (nodes or 1) if devices and result.status != "ok" else result.world_size
