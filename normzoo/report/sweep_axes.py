"""What a sweep varied, whatever it is, and the errors by it: for sweeps that are not over batch sizes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from normzoo.report import provenance as describe
from normzoo.report.chance import at_edge, none_learned
from normzoo.report.facets import phrase, said, telling_apart
from normzoo.report.frame import NORM_AXIS, WHERE_IT_RAN, Table
from normzoo.report.series import Point, Stat, batch_lines, normalization_lines, placement_lines, point_of, remembered

Key = tuple[Any, ...]
ABSENT = "—"  # stands for an entry that a cell has not


@dataclass(frozen=True)
class Axis:
    """An entry that cells differ in, and what it is of one; `key` is its full name, if it is an entry itself."""

    name: str
    of: Callable[[Any], Any]
    key: str = ""

    def label(self, value: Any) -> str:
        """A value, said with the name of its entry unless it tells by itself what it is."""
        if self.name in ("norm", "model", "data", "optimizer") and value is not None:
            return said(value)
        whole = value is not None and self.key.endswith((".name", "._target_"))
        return f"{self.name}={said(value)}" if whole else phrase(self.key, value, self.name)

    @property
    def group(self) -> str:
        """What all entries that follow from it begin with."""
        return self.key.removesuffix("name").removesuffix("_target_")


_NORM = Axis("norm", lambda row: row.variant)


@dataclass(frozen=True)
class Grid:
    """Cells by what they differ in: a line for each key of `lines`, and along it the values of `across`, if any."""

    lines: tuple[Axis, ...]
    across: Axis | None
    points: dict[Key, dict[Any, Point]]

    def label(self, key: Key) -> str:
        """The name of a line, which needs no more than its value where there is one entry."""
        if len(self.lines) == 1:
            return said(key[0])
        return labels(self.lines, key)

    @property
    def xs(self) -> list[Any]:
        """The values across, numbers in order, others as they were found."""
        found = dict.fromkeys(x for points in self.points.values() for x in points)
        return sorted(found) if self.across is not None and is_number(found) else list(found)


def labels(axes: Sequence[Axis], key: Key) -> str:
    """What cells are, by each of these entries that they have: an option of one norm is none of another's."""
    return ", ".join(axis.label(value) for axis, value in zip(axes, key, strict=True) if value != ABSENT)


@remembered
def over_batches(table: Table) -> bool:
    """Whether some cells differ in how many samples are normalized together, in a step or in a group of it."""
    return any(
        len(line.points) > 1
        for setting in table.settings
        for find in (batch_lines, normalization_lines, placement_lines)
        for line in find(table, setting)
        if find is not placement_lines or line.norm in table.batch_norms
    )


@remembered
def axes_of(table: Table) -> list[Axis]:
    """Entries that tell all cells apart but for the seed, those a reader would name first."""
    several = table.cells.norm.nunique() > 1
    # Several norms are told apart with their options; those of one norm are entries like others.
    within = ("placement.", "norm.") if several else ("placement.",)
    keys = [key for key in table.differing if key not in {"seed", *WHERE_IT_RAN} and not key.startswith(within)]
    keys += [NORM_AXIS] if several and NORM_AXIS in table.differing else []
    keys.sort(key=lambda key: (not key.endswith(".name"), key != "batch_size_per_device", key.endswith("_target_")))
    candidates = [
        *([_NORM] if several else []),
        Axis("placement", lambda row: row.placement),
        *(Axis(key.removesuffix(".name").removesuffix("._target_"), partial(_entry, key), key) for key in keys),
        Axis("devices", lambda row: row.devices, "trainer.devices"),
    ]
    return telling_apart(table.rows, {axis: axis.of for axis in candidates}) or [_NORM]


def _entry(key: str, row: Any) -> Any:
    return row.config.get(key, ABSENT)


@remembered
def grid_of(table: Table) -> Grid:
    """The errors by what was varied: across is the entry with the most numbers, or else the last one of several."""
    axes = axes_of(table)
    values = {axis.name: {axis.of(row) for row in table.rows} for axis in axes}
    numbers = [axis for axis in axes if is_number(values[axis.name])]
    across = max(numbers, key=lambda axis: len(values[axis.name]), default=axes[-1] if len(axes) > 1 else None)
    lines = tuple(axis for axis in axes if axis is not across) or (_NORM,)
    places: dict[Key, dict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in table.rows:
        places[tuple(axis.of(row) for axis in lines)][across.of(row) if across else None].append(row.Index)
    points = {key: {x: point_of(0, table.cells.iloc[at]) for x, at in found.items()} for key, found in places.items()}
    if across is None:  # a ranking
        points = dict(sorted(points.items(), key=lambda item: _mean(item[1][None])))
    return Grid(lines, across, points)


@remembered
def best(table: Table) -> tuple[str, Stat, str] | None:
    """The cells, by what tells them apart, with the lowest mean error, and what speaks against it; None without any."""
    axes = axes_of(table)
    places: dict[Key, list[int]] = defaultdict(list)
    for row in table.rows:
        places[tuple(axis.of(row) for axis in axes)].append(row.Index)
    points = {key: point_of(0, table.cells.iloc[at]) for key, at in places.items()}
    measured = {key: point.stat for key, point in points.items() if point.stat is not None and not point.missing}
    if len(points) < 2 or not measured:
        return None
    key, stat = min(measured.items(), key=lambda item: item[1].mean)
    against = [none_learned(table.cells.record)]
    for i, axis in enumerate(axes):
        if axis.key in ("optimizer.base_lr", "optimizer.lr"):
            tried = [other[i] for other in points if (other[:i], other[i + 1 :]) == (key[:i], key[i + 1 :])]
            against += [at_edge(key[i], tried)] if is_number(tried) else []
    return labels(axes, key), stat, "; ".join(filter(None, against))


@remembered
def pooled(table: Table) -> dict[str, list[Any]]:
    """Entries in which cells of one line differ beside its abscissa and the seed, with their values.

    A learning rate that follows the batch size is one, and the number of threads.
    """
    lines: list[tuple[Iterable[Point], str | tuple[str, ...]]] = []
    if over_batches(table):
        for setting in table.settings:
            for found, along in (
                (batch_lines(table, setting), "batch_size_per_device"),
                (normalization_lines(table, setting), NORM_AXIS),
                (placement_lines(table, setting), (NORM_AXIS, "batch_size_per_device")),
            ):
                lines += [(line.points, along) for line in found]
    else:
        grid = grid_of(table)
        own = (grid.across.group or grid.across.name) if grid.across else ()
        lines = [(points.values(), own) for points in grid.points.values()]
    values: dict[str, dict[Any, None]] = {}
    for points, abscissa in lines:
        configs = [config for point in points for config in point.cells.config]
        for key in table.differing:
            if key != "seed" and not key.startswith(abscissa):
                seen = dict.fromkeys(config.get(key, ABSENT) for config in configs)
                if len(seen) > 1:
                    values.setdefault(key, {}).update(seen)
    return {key: list(seen) for key, seen in values.items()}


def pooled_text(table: Table) -> str:
    """What the lines pool, in a phrase; empty where their cells differ in nothing else."""
    return describe.listing(
        (f"{key} ({describe.listing(map(said, values))})" for key, values in pooled(table).items()), 12
    )


def is_number(values: Any) -> bool:
    """Whether all of these are numbers."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _mean(point: Point) -> float:
    return point.stat.mean if point.stat is not None else float("inf")


FIGURE_NAMES = ("small_batch", "errors")


def figure_name(table: Table) -> str:
    """What the figure's files are called."""
    return FIGURE_NAMES[0] if over_batches(table) else FIGURE_NAMES[1]
