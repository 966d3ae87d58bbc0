"""Find lines in the cells: which belong together, and over which axis.

Nothing here knows the name of an experiment. An arm exists if the records hold cells for it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd

from normzoo.report.facets import Setting
from normzoo.report.frame import METRIC, Table
from normzoo.results import CellResult
from normzoo.text import counted

ERROR = "val_error_running"


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation over seeds; `std` is None for a single seed."""

    mean: float
    std: float | None
    values: tuple[float, ...]

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Point:
    """The cells of a line at one x, by their rows in the table."""

    x: Any
    table: pd.DataFrame
    rows: Sequence[int]

    @property
    def cells(self) -> pd.DataFrame:
        """The cells themselves."""
        return self.table.iloc[list(self.rows)]

    @property
    def records(self) -> Sequence[CellResult]:
        """The records of the cells."""
        return list(self._column("record"))

    @cached_property
    def stat(self) -> Stat | None:
        """The statistic of the error."""
        return self.over(ERROR)

    @cached_property
    def missing(self) -> tuple[tuple[str, int], ...]:
        """How many cells have no error, by status."""
        errors = self._column(METRIC + ERROR)
        found = zip(self._column("status"), np.full(len(self.rows), np.nan) if errors is None else errors, strict=True)
        return tuple(sorted(Counter(status for status, error in found if math.isnan(error)).items()))

    def over(self, metric: str) -> Stat | None:
        """Summarize a metric over seeds; cells that share a seed count once, by their mean."""
        values = self._column(METRIC + metric)
        seeds: dict[int, list[float]] = defaultdict(list)
        for seed, value in zip(self._column("seed"), values, strict=True) if values is not None else ():
            if not math.isnan(value):
                seeds[seed].append(value)
        return over_seeds(seeds)

    def count(self, *statuses: str) -> int:
        """Count the cells that have no error for one of these reasons."""
        return sum(count for status, count in self.missing if status in statuses)

    @property
    def lost(self) -> bool:
        """Whether cells diverged or died here."""
        return any(status not in ("ok", "refused") for status, _ in self.missing)

    def _column(self, name: str) -> Any:
        return self.table[name].to_numpy()[self.rows] if name in self.table else None


@dataclass(frozen=True, eq=False)
class Line:
    """Cells that differ in x and seed only; `devices` and `step_batch` are None where all lines have the same."""

    setting: Setting
    norm: str
    variant: str
    placement: str
    devices: int | None
    step_batch: int | None
    points: tuple[Point, ...]

    @property
    def measured(self) -> list[tuple[Any, Stat]]:
        """The points that have an error."""
        return [(point.x, point.stat) for point in self.points if point.stat is not None]

    @property
    def ran(self) -> bool:
        """Whether any of its cells was not refused."""
        return any(point.count("refused") < len(point.rows) for point in self.points)

    @property
    def cells(self) -> pd.DataFrame:
        """The cells of all points."""
        return self.points[0].table.iloc[[row for point in self.points for row in point.rows]]

    def at(self, x: int) -> Point | None:
        """Return the point at `x`, if it has an error, or if cells diverged there."""
        return next((point for point in self.points if point.x == x and (point.stat or point.count("diverged"))), None)


def over_seeds(seeds: Mapping[int, Sequence[float]]) -> Stat | None:
    """Summarize the values found with each seed, a seed counting once; return None without any."""
    values = tuple(math.fsum(found) / len(found) for _, found in sorted(seeds.items()))
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
    return Stat(mean, std, values)


def over_seeds_along(points: Iterable[tuple[int, float | None, float | None]]) -> list[tuple[float, Stat]]:
    """Summarize over seeds at each x the values of points (seed, x, value), of those that are finite."""
    found: dict[float, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed, x, value in points:
        if x is not None and value is not None and math.isfinite(value):
            found[float(x)][seed].append(float(value))
    return [(x, stat) for x in sorted(found) if (stat := over_seeds(found[x])) is not None]


def pooled_std(*stats: Stat) -> float | None:
    """Return the common standard deviation of several groups, each weighted by its degrees of freedom."""
    freedom = sum(s.n - 1 for s in stats)
    if freedom == 0:
        return None
    return math.sqrt(sum((s.n - 1) * (s.std or 0.0) ** 2 for s in stats) / freedom)


def batch_lines(table: Table, setting: Setting) -> list[Line]:
    """Return the error over batch size per device, a line per norm, without norms that split the batch of a step."""
    return _over_batches(table)[setting.index]


def normalization_lines(table: Table, setting: Setting) -> list[Line]:
    """Return the error over normalization batch at a fixed step batch, for norms that split the batch of a step."""
    return _over_normalization_batches(table)[setting.index]


@lru_cache(maxsize=1)
def _over_batches(table: Table) -> dict[int, list[Line]]:
    return _lines(table, table.mainly_placed & ~table.cells.norm.isin(table.partitioned), "batch")


@lru_cache(maxsize=1)
def _over_normalization_batches(table: Table) -> dict[int, list[Line]]:
    split = table.cells.norm.isin(table.partitioned)
    return _lines(table, table.mainly_placed & split, "normalization_batch", by_step=True)


def flat_references(table: Table, setting: Setting, step_batches: Iterable[int | None]) -> list[Line]:
    """Return norms that do not share statistics between samples, at the step batches of a normalization-batch arm."""
    steps = set(step_batches)
    found = []
    for line in batch_lines(table, setting):
        points = tuple(p for p in line.points if p.x in steps and p.stat)
        if points and line.norm not in table.batch_norms:
            found.append(replace(line, step_batch=points[-1].x, points=points))
    return found


@lru_cache(maxsize=1)
def _over_placements(table: Table) -> dict[int, list[Line]]:
    """Take the norm that was tried in most placements of each setting, if possible one that shares statistics."""
    cells = table.cells
    tried = cells.groupby(["setting", "variant"], sort=False).agg(
        placements=("placement", "nunique"), cells=("status", "size"), norm=("norm", "first")
    )
    tried = tried[tried.placements > 1].reset_index()
    tried["alone"] = ~tried.norm.isin(table.batch_norms)
    ranked = tried.sort_values(["alone", "placements", "cells", "variant"], ascending=[True, False, False, True])
    chosen = ranked.drop_duplicates("setting").set_index("setting")
    mine = cells.variant == cells.setting.map(chosen.variant)
    shares, splits = cells.norm.isin(table.batch_norms), cells.norm.isin(table.partitioned)
    found = _lines(table, mine & ~shares, "batch")
    for by_step, where in ((False, ~splits), (True, splits)):
        found |= _lines(table, mine & shares & where, "normalization_batch", by_step=by_step)
    return found


def placement_lines(table: Table, setting: Setting) -> list[Line]:
    """Return the error over normalization batch (or batch size), a line per placement, of one norm."""
    return _over_placements(table)[setting.index]


@lru_cache(maxsize=1)
def values_lines(table: Table) -> list[Line]:
    """Return the error over the net's smallest values per statistic, of norms that share statistics between samples."""
    shares = table.mainly_placed & table.cells.norm.isin(table.batch_norms)
    splits = table.cells.norm.isin(table.partitioned)
    plain, split = _lines(table, shares & ~splits, "values_min"), _lines(table, shares & splits, "values_min", True)
    lines = [line for setting in table.settings for line in (*plain[setting.index], *split[setting.index])]
    lines.sort(key=lambda line: (line.setting.index, line.norm))
    return [line for line in lines if line.measured]


def beside(line: Line, lines: Sequence[Line]) -> str:
    """Tell a line from others of its norm and placement: `, 2 devices, 32 samples a step`."""
    several = len({other.step_batch for other in lines if other.variant == line.variant}) > 1
    step = f", {line.step_batch} samples a step" if several and line.step_batch else ""
    return (f", {counted(line.devices, 'device')}" if line.devices else "") + step


def batch_sizes(table: Table, setting: Setting) -> set[int]:
    """Return the batch sizes per device of a setting's cells."""
    return {point.x for line in batch_lines(table, setting) for point in line.points}


def has_batch_axis(table: Table, setting: Setting) -> bool:
    """Return whether a setting is a grid over batch sizes, rather than references of a normalization-batch arm."""
    sizes = batch_sizes(table, setting)
    return len(sizes) > 1 or (bool(sizes) and not table.of(setting).norm.isin(table.partitioned).any())


def positions(line: Line) -> int | None:
    """Return the fewest positions (height × width) that a normalized map of the line's net has."""
    cells = line.cells[["values_min", "normalization_batch"]].dropna()
    return None if cells.empty else int((cells.values_min // cells.normalization_batch).min())


def _lines(table: Table, chosen: pd.Series, x: str, by_step: bool = False) -> dict[int, list[Line]]:
    """Group the chosen cells into lines over a column; return them by setting."""
    cells = table.cells[chosen.astype(bool)]
    several = cells.groupby("setting").devices.transform("nunique") > 1
    keys = cells[["setting", "variant", "placement", "norm"]].assign(
        devices=cells.devices.where(several, 0), step=cells.batch.fillna(0) if by_step else 0, x=cells[x]
    )
    keys = keys[cells[x].notna()]
    points: dict[Any, list[Point]] = defaultdict(list)
    for (*line, at), rows in keys.groupby(list(keys), sort=False).groups.items() if len(keys) else ():
        points[tuple(line)].append(Point(int(at), table.cells, rows.to_numpy()))
    lines: dict[int, list[Line]] = defaultdict(list)
    for (setting, variant, placement, norm, devices, step), found in points.items():
        along = tuple(sorted(found, key=lambda point: point.x))
        line = Line(table.settings[setting], norm, variant, placement, devices or None, int(step) or None, along)
        lines[setting].append(line)
    return lines
