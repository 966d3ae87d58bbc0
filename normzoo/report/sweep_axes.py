"""Find what a sweep varied, whatever it is, and the errors by it: for sweeps that are not over batch sizes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from normzoo.report import provenance as describe
from normzoo.report.checks import at_edge, none_learned
from normzoo.report.facets import ABSENT, phrase, said, telling_apart
from normzoo.report.frame import CONFIG, NORM_AXIS, WHERE_IT_RAN, Table
from normzoo.report.series import Line, Point, Stat, batch_lines, normalization_lines, placement_lines

Key = tuple[Any, ...]
FIGURE_NAMES = ("small_batch", "errors")


@dataclass(frozen=True)
class Axis:
    """An entry in which cells differ: its name, its column in the table, and its full name in the config, if any."""

    name: str
    column: str
    key: str = ""

    def label(self, value: Any) -> str:
        """Write a value, with the name of its entry unless the value explains itself."""
        if self.name in ("norm", "model", "data", "optimizer") and value is not None:
            return said(value)
        whole = value is not None and self.key.endswith((".name", "._target_"))
        return f"{self.name}={said(value)}" if whole else phrase(self.key, value, self.name)

    @property
    def group(self) -> str:
        """The prefix of all entries that follow from this one."""
        return self.key.removesuffix("name").removesuffix("_target_")


_NORM = Axis("norm", "variant")


@dataclass(frozen=True)
class Grid:
    """Cells by what they differ in: a line for each key of `lines`, and along it the values of `across`, if any."""

    lines: tuple[Axis, ...]
    across: Axis | None
    points: dict[Key, dict[Any, Point]]

    @property
    def names(self) -> list[str]:
        """The names of all axes."""
        return [axis.name for axis in (*self.lines, *([self.across] if self.across else []))]

    def label(self, key: Key) -> str:
        """Name a line, by its value alone if the lines differ in one entry."""
        return said(key[0]) if len(self.lines) == 1 else labels(self.lines, key)

    @property
    def xs(self) -> list[Any]:
        """The values across, numbers in order, others as they were found."""
        found = dict.fromkeys(x for points in self.points.values() for x in points)
        return sorted(found) if self.across is not None and is_number(found) else list(found)


def labels(axes: Sequence[Axis], key: Key) -> str:
    """Name cells by each of these entries that they have: an option of one norm says nothing about another."""
    return ", ".join(axis.label(value) for axis, value in zip(axes, key, strict=True) if value != ABSENT)


@lru_cache(maxsize=1)
def over_batches(table: Table) -> bool:
    """Return whether cells differ in how many samples are normalized together, in a step or in a group of it."""
    return any(
        len(line.points) > 1
        for setting in table.settings
        for find in (batch_lines, normalization_lines, placement_lines)
        for line in find(table, setting)
        if find is not placement_lines or line.norm in table.batch_norms
    )


def figure_name(table: Table) -> str:
    """Return what the files of the figure are called."""
    return FIGURE_NAMES[0] if over_batches(table) else FIGURE_NAMES[1]


@lru_cache(maxsize=1)
def axes_of(table: Table) -> list[Axis]:
    """Find entries that tell all cells apart but for the seed, those a reader would name first."""
    several = table.cells.norm.nunique() > 1
    # Several norms are told apart with their options; those of one norm are entries like others.
    within = ("placement.", "norm.") if several else ("placement.",)
    keys = [key for key in table.differing if key not in {"seed", *WHERE_IT_RAN} and not key.startswith(within)]
    keys += [NORM_AXIS] if several and NORM_AXIS in table.differing else []
    keys.sort(key=lambda key: (not key.endswith(".name"), key != "batch_size_per_device", key.endswith("_target_")))
    candidates = [
        *([_NORM] if several else []),
        Axis("placement", "placement"),
        *(Axis(key.removesuffix(".name").removesuffix("._target_"), CONFIG + key, key) for key in keys),
        Axis("devices", "devices", "trainer.devices"),
    ]
    telling = telling_apart(table.cells[[axis.column for axis in candidates]])
    return [axis for axis in candidates if axis.column in telling] or [_NORM]


@lru_cache(maxsize=1)
def grid_of(table: Table) -> Grid:
    """Return the errors by what was varied; across is the entry with the most numbers, or else the last of several."""
    axes = axes_of(table)
    values = {axis.name: dict.fromkeys(table.cells[axis.column]) for axis in axes}
    numbers = [axis for axis in axes if is_number(values[axis.name])]
    across = max(numbers, key=lambda axis: len(values[axis.name]), default=axes[-1] if len(axes) > 1 else None)
    lines = tuple(axis for axis in axes if axis is not across) or (_NORM,)
    points: dict[Key, dict[Any, Point]] = defaultdict(dict)
    for key, point in _points(table, (*lines, *([across] if across else []))).items():
        points[key[: len(lines)]][key[-1] if across else None] = point
    if across is None:  # a ranking
        points = dict(sorted(points.items(), key=lambda item: _mean(item[1][None])))
    return Grid(lines, across, points)


def _points(table: Table, axes: Sequence[Axis]) -> dict[Key, Point]:
    """Group the cells by these entries, in the order of the table."""
    rows: dict[Key, list[int]] = defaultdict(list)
    for row, key in enumerate(zip(*(table.cells[axis.column] for axis in axes), strict=True)):
        rows[key].append(row)
    return {key: Point(0, table.cells, found) for key, found in rows.items()}


@lru_cache(maxsize=1)
def best(table: Table) -> tuple[str, Stat, str] | None:
    """Return the name of the cells with the lowest mean error, the error, and what casts doubt on it."""
    axes = axes_of(table)
    points = _points(table, axes)
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


@lru_cache(maxsize=1)
def pooled(table: Table) -> dict[str, list[Any]]:
    """Return entries in which cells of one line differ beside its abscissa and the seed, with their values.

    A learning rate that follows the batch size is one, and the number of threads.
    """
    kinds: list[tuple[list[Sequence[Point]], str | tuple[str, ...]]] = []
    along: str | tuple[str, ...]
    if over_batches(table):
        for find, along in (
            (batch_lines, "batch_size_per_device"),
            (normalization_lines, NORM_AXIS),
            (placement_lines, (NORM_AXIS, "batch_size_per_device")),
        ):
            found: list[Line] = [line for setting in table.settings for line in find(table, setting)]
            kinds.append(([line.points for line in found], along))
    else:
        grid = grid_of(table)
        along = (grid.across.group or grid.across.name) if grid.across else ()
        kinds.append(([[*points.values()] for points in grid.points.values()], along))
    values: dict[str, dict[Any, None]] = {}
    for lines, along in kinds:
        numbers = {row: number for number, points in enumerate(lines) for point in points for row in point.rows}
        cells, of = table.cells.iloc[list(numbers)], pd.Series(list(numbers.values()), list(numbers), dtype=int)
        for key in table.differing:
            if key != "seed" and not key.startswith(along):
                several = cells[CONFIG + key].groupby(of).transform("nunique", dropna=False) > 1
                if several.any():
                    values.setdefault(key, {}).update(dict.fromkeys(cells[CONFIG + key][several]))
    return {key: list(seen) for key, seen in values.items()}


def pooled_text(table: Table) -> str:
    """Name what the lines pool; return an empty text if their cells differ in nothing else."""
    return describe.listing(
        (f"{key} ({describe.listing(map(said, values))})" for key, values in pooled(table).items()), 12
    )


def is_number(values: Iterable[Any]) -> bool:
    """Return whether all of these are numbers."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _mean(point: Point) -> float:
    return point.stat.mean if point.stat is not None else float("inf")
