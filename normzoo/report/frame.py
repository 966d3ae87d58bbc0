"""The records of a sweep as one data frame: a row a cell, and the settings that the rows fall into.

A *setting* is everything that differs between cells of a folder beyond norm, batch size, placement, devices and seed.
It is found from the records: whatever entry of the configs takes several values splits the cells, with no label needed.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from normzoo.report.facets import Setting, derived_entries, describe
from normzoo.results import CellResult, decisive
from normzoo.text import bounded, displayable, printable

# Axes of the report itself, and entries that say where a cell ran rather than what it was.
_AXES = frozenset({"seed", "batch_size_per_device"})
_AXIS_GROUPS = ("norm.", "placement.")
WHERE_IT_RAN = frozenset(
    f"trainer.{key}" for key in ("name", "accelerator", "devices", "num_nodes", "strategy", "threads", "deterministic")
)
# The number of samples that share a statistic is an axis of its own, so it does not tell variants of a norm apart.
NORM_AXIS = "norm.group_size"
METRIC = "metrics."  # begins the names of columns that are metrics
# The order of a reader's interest; what is not named follows by its name.
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
    """The cells of a folder, their settings (the fullest first) and how many were found twice.

    Args:
        cells: A row a cell. Beside what a reader would name it has `record`, the whole of it, and `config`, all entries
            by their full names; a metric is empty where the cell did not come to its end.
        settings: The groups that may stand in one table.
        differing: Entries of the configs that take several values.
        repeated: Records of a cell that has another.
        found: Lines once found, by what was asked for: summary, checks and figure ask for the same ones.
    """

    cells: pd.DataFrame
    settings: tuple[Setting, ...]
    differing: tuple[str, ...]
    repeated: int
    found: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def rows(self) -> list[Any]:
        """The cells one by one, as named tuples."""
        return list(self.cells.itertuples())

    @cached_property
    def by_setting(self) -> dict[Setting, pd.DataFrame]:
        return dict(list(self.cells.groupby("setting", sort=False)))

    @cached_property
    def batch_norms(self) -> frozenset[str]:
        """Norms whose statistics were shared by several samples in some cell."""
        return frozenset(self.cells.norm[self.cells.normalization_batch > 1])

    @cached_property
    def partitioned(self) -> frozenset[str]:
        """Norms whose normalization batch was varied while the batch of a step stayed the same."""
        step = self.cells.groupby(["setting", "norm", "placement", "devices", "batch"], sort=False, dropna=False)
        varied = step.normalization_batch.nunique() > 1
        return frozenset(varied[varied].index.get_level_values("norm"))

    def main_placement(self, setting: Setting) -> str:
        """The placement most cells of the setting have; `pre_act` where several tie."""
        counts = Counter(self.by_setting[setting].placement)
        return min(counts, key=lambda name: (-counts[name], name != "pre_act", name))


def build_table(results: Iterable[CellResult]) -> Table:
    """Flatten the records, group them into settings and name the variants of norms and placements."""
    kept, repeated = _once(results)
    texts: dict[str, str] = {}
    flats = [_flatten(decisive(result.config), texts) for result in kept]
    differing = _differing(flats)
    own_axes = _AXES | WHERE_IT_RAN
    splitting = [key for key in differing if key not in own_axes and not key.startswith(_AXIS_GROUPS)]
    refused = [result.status == "refused" for result in kept]
    ran = [flat for flat, out in zip(flats, refused, strict=True) if not out]
    # What follows from the batch in all that ran follows from it; an entry that only something refused has otherwise
    # sets that apart.
    among = {key for key in _differing(ran) if key in splitting}
    derived = derived_entries(ran, among) | derived_entries(flats, set(splitting) - among)
    splitting = [key for key in splitting if key not in derived]
    keys = [tuple(flat.get(key) for key in splitting) for flat in flats]
    settings = _settings(keys, splitting, flats, refused)
    norms = _variants(flats, refused, "norm", skip=(NORM_AXIS,))
    placements = _variants(flats, refused, "placement")
    cells = pd.DataFrame(
        {
            "record": kept,
            "config": flats,
            "status": [result.status for result in kept],
            "reason": [" ".join((result.reason or "").split()) for result in kept],
            "norm": [str(flat.get("norm.name", "?")) for flat in flats],
            "variant": norms,
            "batch": [_count(flat.get("batch_size_per_device")) for flat in flats],
            # A cell that died has no record of it, and yet belongs at its place on the axis.
            "normalization_batch": [
                _count(result.normalization_batch) or _count(flat.get(NORM_AXIS))
                for result, flat in zip(kept, flats, strict=True)
            ],
            "placement": placements,
            "model": [str(flat.get("model.name", "?")) for flat in flats],
            "data": [str(flat.get("data.name", "?")) for flat in flats],
            "image_size": [flat.get("data.image_size") for flat in flats],
            "devices": [_devices(result, flat) for result, flat in zip(kept, flats, strict=True)],
            "seed": [result.seed for result in kept],
            "values_min": [
                min((n for n in result.values_per_statistic.values() if n and n > 0), default=None) for result in kept
            ],
            "setting": [settings[key] for key in keys],
        },
        dtype=object,
    ).astype(dict.fromkeys(("batch", "normalization_batch"), "Int64"))
    names = dict.fromkeys(name for result in kept for name in result.metrics)
    ended = [result.metrics if result.status == "ok" else {} for result in kept]
    metrics = pd.DataFrame({name: [found.get(name) for found in ended] for name in names}, dtype=float)
    cells = pd.concat([cells, metrics.add_prefix(METRIC)], axis=1)
    order = pd.DataFrame(
        {
            "setting": [setting.index for setting in cells.setting],
            "norm": [_rank(_NORMS_FIRST, norm) for norm in cells.norm],
            "variant": cells.variant,
            "first": [_rank(_PLACEMENTS_FIRST, placement) for placement in cells.placement],
            **{name: cells[name] for name in ("placement", "devices")},
            **{name: cells[name].fillna(0) for name in ("batch", "normalization_batch")},
            "seed": cells.seed,
        }
    )
    cells = cells.loc[order.sort_values(list(order), kind="stable").index].reset_index(drop=True)
    return Table(cells, tuple(settings.values()), differing, repeated)


def _rank(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _once(results: Iterable[CellResult]) -> tuple[list[CellResult], int]:
    """One record a cell: a finished one rather than another, the later one of equals."""
    best: dict[str, CellResult] = {}
    total = 0
    for result in map(displayed, results):
        total += 1
        other = best.get(result.cell)
        if other is None or _preference(result) >= _preference(other):
            best[result.cell] = result
    return list(best.values()), total - len(best)


def displayed(result: CellResult) -> CellResult:
    """The record with texts and numbers that every table, page and figure can take."""
    texts = {name: displayable(getattr(result, name)) for name in ("cell", "config", "device", "versions")}
    metrics = {displayable(name): value for name, value in result.metrics.items()}
    reason = bounded(printable(result.reason)) if result.reason else result.reason
    started = displayable(result.time.get("started"))
    return replace(result, **texts, metrics=metrics, reason=reason, time={**result.time, "started": started})


def _preference(result: CellResult) -> tuple[bool, str]:
    return result.status == "ok", str(result.time.get("started", ""))


def _flatten(config: Mapping[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    """All entries under their full names, a list as its JSON, and so `true`, which in Python equals 1.

    Args:
        texts: What lists and texts became that were met before, by how Python shows them.
    """
    flat: dict[str, Any] = {}

    def flatten(entries: Mapping[str, Any], prefix: str) -> None:
        for key, value in entries.items():
            # A record's config is JSON: dicts and lists, whose types are told apart faster than what they are
            # instances of.
            kind = type(value)
            if kind is dict and value:
                flatten(value, f"{prefix}{key}.")
            elif kind is list or kind is dict:
                shown = repr(value)
                flat[f"{prefix}{key}"] = texts.get(shown) or texts.setdefault(shown, json.dumps(value))
            elif kind is str:
                shown = f"text {value}"
                flat[f"{prefix}{key}"] = texts.get(shown) or texts.setdefault(shown, _quoted(value))
            elif kind is bool:
                flat[f"{prefix}{key}"] = "true" if value else "false"
            else:
                flat[f"{prefix}{key}"] = value

    flatten(config, "")
    return flat


def _quoted(text: str) -> str:
    """The text; in quotes where it would else look like a number, a list or null."""
    try:
        json.loads(text)
    except ValueError:
        return text
    return json.dumps(text)


def _differing(flats: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Entries that take more than one value, an absent entry counting as a value; in the order of the configs."""
    values: dict[str, set[Any]] = {}
    for flat in flats:
        for key, value in flat.items():
            if key in values:
                values[key].add(value)
            else:
                values[key] = {value}
    shapes = {tuple(flat) for flat in flats}
    everywhere = set.intersection(*map(set, shapes)) if shapes else set()
    return tuple(key for key, seen in values.items() if len(seen) > 1 or key not in everywhere)


def _settings(
    keys: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    flats: Sequence[Mapping[str, Any]],
    refused: Sequence[bool],
) -> dict[tuple[Any, ...], Setting]:
    points: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
    sizes: Counter[tuple[Any, ...]] = Counter(keys)
    example: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for key, flat in zip(keys, flats, strict=True):
        points[key].add((flat.get("norm.name"), flat.get("batch_size_per_device")))
        example.setdefault(key, flat)
    ordered = sorted(sizes, key=lambda key: (-len(points[key]), -sizes[key], [_in_order(value) for value in key]))

    def described(chosen: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[str, str]]:
        entries = [dict(zip(names, key, strict=True)) for key in chosen]
        return dict(zip(chosen, describe(entries, [example[key] for key in chosen]), strict=True))

    # What ran is told apart without what was refused.
    ran = {key for key, out in zip(keys, refused, strict=True) if not out}
    labels = described(ordered) | described([key for key in ordered if key in ran])
    return {key: Setting(i, *labels[key]) for i, key in enumerate(ordered)}


def _in_order(value: Any) -> tuple[bool, float, str]:
    """Numbers by their size, and then all else."""
    number = isinstance(value, (int, float))
    return not number, value if number else 0.0, repr(value)


def _variants(
    flats: Sequence[Mapping[str, Any]], refused: Sequence[bool], group: str, skip: tuple[str, ...] = ()
) -> list[str]:
    """Name each cell's norm (or placement), with the arguments in which cells of the same name differ.

    What was refused renames nothing that ran: it has the name of what ran with the same arguments, or else one of its
    own, with all those in which it differs.
    """
    prefix = f"{group}."
    skipped = {f"{prefix}name", *skip}
    names = [str(flat.get(f"{prefix}name", "?")) for flat in flats]
    own = [{key: flat[key] for key in flat if key.startswith(prefix) and key not in skipped} for flat in flats]
    every: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    ran: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for name, entries, out in zip(names, own, refused, strict=True):
        every[name].append(entries)
        if not out:
            ran[name].append(entries)
    telling = {name: _differing(ran[name] or found) for name, found in every.items()}
    all_telling = {
        name: _differing(found) if len(ran[name]) < len(found) else telling[name] for name, found in every.items()
    }
    alike = {
        name: {tuple(entries.get(key) for key in all_telling[name]) for entries in found} for name, found in ran.items()
    }
    variants = []
    for name, entries, out in zip(names, own, refused, strict=True):
        stranger = out and tuple(entries.get(key) for key in all_telling[name]) not in alike[name]
        keys = all_telling[name] if stranger else telling[name]
        arguments = ", ".join(f"{key.removeprefix(prefix)}={entries.get(key)}" for key in keys)
        variants.append(f"{name}({arguments})" if arguments else name)
    return variants


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _devices(result: CellResult, flat: Mapping[str, Any]) -> int:
    """How many devices a cell ran on, or was asked to."""
    devices, nodes = _count(flat.get("trainer.devices")), _count(flat.get("trainer.num_nodes"))
    return devices * (nodes or 1) if devices and result.status != "ok" else result.world_size
