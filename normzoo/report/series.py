"""Lines found in the rows: which cells belong together, and over which axis.

Nothing here knows the name of an experiment. An arm exists when the records hold cells for it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import pandas as pd

from normzoo.report import provenance as describe
from normzoo.report.facets import Setting
from normzoo.report.frame import METRIC, Table

_P = ParamSpec("_P")
_T = TypeVar("_T")
ERROR = "val_error_running"


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation over seeds; `std` is None for a single seed."""

    mean: float
    std: float | None
    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Point:
    """The cells of a line at one x: their statistic, and how many came to no number, by status."""

    x: int
    stat: Stat | None
    missing: tuple[tuple[str, int], ...]
    cells: pd.DataFrame

    def count(self, *statuses: str) -> int:
        """How many cells came to no number for one of these reasons."""
        return sum(count for status, count in self.missing if status in statuses)


@dataclass(frozen=True, eq=False)
class Line:
    """Cells that differ in x and seed only."""

    setting: Setting
    norm: str
    variant: str
    placement: str
    devices: int | None
    step_batch: int | None
    points: tuple[Point, ...]

    @property
    def measured(self) -> list[tuple[int, Stat]]:
        return [(point.x, point.stat) for point in self.points if point.stat is not None]

    @property
    def ran(self) -> bool:
        """Whether any of its cells was not refused."""
        return any(status != "refused" for point in self.points for status in point.cells.status)

    def at(self, x: int) -> Point | None:
        """The cells at `x`, if a number came of one of them, or all diverged."""
        return next((point for point in self.points if point.x == x and (point.stat or point.count("diverged"))), None)


def stat(cells: pd.DataFrame, metric: str = ERROR) -> Stat | None:
    """Summarise a metric over seeds; cells that share a seed count once, by their mean."""
    seeds: dict[int, list[float]] = defaultdict(list)
    for seed, value in zip(cells.seed, cells.get(METRIC + metric, ()), strict=False):
        if not math.isnan(value):
            seeds[seed].append(value)
    return over_seeds(seeds)


def over_seeds(seeds: Mapping[int, Sequence[float]]) -> Stat | None:
    """The values found with each seed as one statistic, a seed counting once; None without any."""
    values = tuple(math.fsum(found) / len(found) for _, found in sorted(seeds.items()))
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
    return Stat(mean, std, values)


def pooled_std(*stats: Stat) -> float | None:
    """The common standard deviation of several groups, each weighted by its degrees of freedom."""
    freedom = sum(s.n - 1 for s in stats)
    if freedom == 0:
        return None
    return math.sqrt(sum((s.n - 1) * (s.std or 0.0) ** 2 for s in stats) / freedom)


def remembered(find: Callable[_P, _T]) -> Callable[_P, _T]:
    """Look for it once per table, which is the first argument."""

    @wraps(find)
    def remembering(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        found = cast(Table, args[0]).found
        key = (find.__name__, *args[1:], *kwargs.items())
        if key not in found:
            found[key] = find(*args, **kwargs)
        return cast(_T, found[key])

    return remembering


@remembered
def batch_lines(table: Table, setting: Setting, placement: str | None = None) -> list[Line]:
    """Error over batch size per device, a line a norm; norms whose statistics are split within a step are left out."""
    wanted = placement or table.main_placement(setting)
    cells = table.by_setting[setting]
    return _lines(setting, cells[~cells.norm.isin(table.partitioned) & (cells.placement == wanted)], "batch")


@remembered
def normalization_lines(table: Table, setting: Setting) -> list[Line]:
    """Error over normalization batch at a fixed step batch, for norms that split a step's batch."""
    wanted = table.main_placement(setting)
    cells = table.by_setting[setting]
    cells = cells[cells.norm.isin(table.partitioned) & (cells.placement == wanted)]
    return _lines(setting, cells, "normalization_batch", by_step=True)


def flat_references(table: Table, setting: Setting, step_batches: Iterable[int | None]) -> list[Line]:
    """Norms that do not share statistics between samples, at the step batches of a normalization-batch arm."""
    steps = set(step_batches)
    found = []
    for line in batch_lines(table, setting):
        points = tuple(p for p in line.points if p.x in steps and p.stat)
        if points and line.norm not in table.batch_norms:
            found.append(Line(setting, line.norm, line.variant, line.placement, line.devices, points[-1].x, points))
    return found


@remembered
def placement_lines(table: Table, setting: Setting) -> list[Line]:
    """Error over normalization batch, a line a placement, for the norm that was tried in most placements."""
    cells = table.by_setting[setting]
    tried = cells.groupby("variant", sort=False).agg({"placement": "nunique", "status": "size", "norm": "first"})
    tried = tried[tried.placement > 1]
    if tried.empty:
        return []
    found = [(row.norm not in table.batch_norms, -row.placement, -row.status, row.Index) for row in tried.itertuples()]
    chosen = min(found)[-1]
    cells, norm = cells[cells.variant == chosen], tried.norm[chosen]
    if norm in table.batch_norms:
        return _lines(setting, cells, "normalization_batch", by_step=norm in table.partitioned)
    return _lines(setting, cells, "batch")


def values_lines(table: Table) -> list[Line]:
    """Error over the net's smallest values per statistic, for every norm that shares statistics between samples."""
    lines = []
    for setting in table.settings:
        cells = table.by_setting[setting]
        cells = cells[cells.norm.isin(table.batch_norms) & (cells.placement == table.main_placement(setting))]
        for norm, own in cells.groupby("norm"):
            lines += _lines(setting, own, "values_min", by_step=norm in table.partitioned)
    return [line for line in lines if line.measured]


def beside(line: Line, lines: Sequence[Line]) -> str:
    """What sets a line apart from others of its norm and placement: `, 2 devices, 32 samples a step`."""
    several = len({other.step_batch for other in lines if other.variant == line.variant}) > 1
    step = f", {line.step_batch} samples a step" if several and line.step_batch else ""
    return (f", {describe.number(line.devices, 'device')}" if line.devices else "") + step


def batch_sizes(table: Table, setting: Setting) -> set[int]:
    """The batch sizes per device of the setting's cells."""
    return {point.x for line in batch_lines(table, setting) for point in line.points}


def has_batch_axis(table: Table, setting: Setting) -> bool:
    """Whether a setting is a grid over batch sizes, rather than flat references of a normalization-batch arm."""
    sizes = batch_sizes(table, setting)
    arm = table.by_setting[setting].norm.isin(table.partitioned).any()
    return len(sizes) > 1 or (bool(sizes) and not arm)


def positions(line: Line) -> int | None:
    """The fewest positions (height × width) a normalized map of the line's net has, from n and normalization batch."""
    cells = pd.concat([point.cells[["values_min", "normalization_batch"]] for point in line.points]).dropna()
    return None if cells.empty else int((cells.values_min // cells.normalization_batch).min())


def _lines(setting: Setting, cells: pd.DataFrame, x: str, *, by_step: bool = False) -> list[Line]:
    by_devices = cells.devices.nunique() > 1
    cells = cells[cells[x].notna()]
    keys = ["variant", "placement", *(["devices"] if by_devices else []), *(["batch"] if by_step else [])]
    lines = []
    for _, own in cells.groupby(keys, sort=False, dropna=False):
        first: Any = next(own.itertuples())
        step = first.batch if by_step and not pd.isna(first.batch) else None
        points = tuple(point_of(at, found) for at, found in own.groupby(x))
        devices = first.devices if by_devices else None
        lines.append(Line(setting, first.norm, first.variant, first.placement, devices, step, points))
    return lines


def point_of(x: int, cells: pd.DataFrame) -> Point:
    """The cells at one place, summarised."""
    # Cell by cell: of the few at one place that is faster than a mask.
    errors = cells.get(METRIC + ERROR, [math.nan] * len(cells))
    missing = Counter(status for status, error in zip(cells.status, errors, strict=True) if math.isnan(error))
    return Point(x, stat(cells), tuple(sorted(missing.items())), cells)
