"""Lines found in the rows: which cells belong together, and over which axis.

Nothing here knows the name of an experiment. An arm exists when the records hold cells for it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from normzoo.report import provenance as describe
from normzoo.report.facets import Setting
from normzoo.report.rows import Row, Table

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


@dataclass(frozen=True)
class Point:
    """The cells of a line at one x: their statistic, and how many came to no number, by status."""

    x: int
    stat: Stat | None
    missing: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]

    def count(self, *statuses: str) -> int:
        """How many cells came to no number for one of these reasons."""
        return sum(count for status, count in self.missing if status in statuses)


@dataclass(frozen=True)
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
        return any(row.status != "refused" for point in self.points for row in point.rows)

    def at(self, x: int) -> Point | None:
        """The cells at `x`, if a number came of one of them, or all diverged."""
        return next((point for point in self.points if point.x == x and (point.stat or point.count("diverged"))), None)


def stat(rows: Iterable[Row], metric: str = ERROR) -> Stat | None:
    """Summarise a metric over seeds; cells that share a seed count once, by their mean."""
    seeds: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        value = row.metric(metric)
        if value is not None:
            seeds[row.seed].append(value)
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
    rows = [r for r in table.by_setting[setting] if r.norm not in table.partitioned and r.placement == wanted]
    return _lines(setting, rows, lambda row: row.batch)


@remembered
def normalization_lines(table: Table, setting: Setting) -> list[Line]:
    """Error over normalization batch at a fixed step batch, for norms that split a step's batch."""
    wanted = table.main_placement(setting)
    rows = [r for r in table.by_setting[setting] if r.norm in table.partitioned and r.placement == wanted]
    return _lines(setting, rows, lambda row: row.normalization_batch, by_step=True)


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
    placements: dict[str, set[str]] = defaultdict(set)
    cells: Counter[str] = Counter()
    for row in table.by_setting[setting]:
        placements[row.variant].add(row.placement)
        cells[row.variant] += 1
    norm_of = {row.variant: row.norm for row in table.by_setting[setting]}
    tried = [name for name in placements if len(placements[name]) > 1]
    if not tried:
        return []
    chosen = min(tried, key=lambda v: (norm_of[v] not in table.batch_norms, -len(placements[v]), -cells[v], v))
    rows = [row for row in table.by_setting[setting] if row.variant == chosen]
    split = norm_of[chosen] in table.partitioned
    if norm_of[chosen] in table.batch_norms:
        return _lines(setting, rows, lambda row: row.normalization_batch, by_step=split)
    return _lines(setting, rows, lambda row: row.batch)


def values_lines(table: Table) -> list[Line]:
    """Error over the net's smallest values per statistic, for every norm that shares statistics between samples."""
    lines = []
    for setting in table.settings:
        wanted = table.main_placement(setting)
        rows = [r for r in table.by_setting[setting] if r.norm in table.batch_norms and r.placement == wanted]
        for name in sorted({row.norm for row in rows}):
            own = [row for row in rows if row.norm == name]
            lines += _lines(setting, own, lambda row: row.values_min, by_step=name in table.partitioned)
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
    arm = any(row.norm in table.partitioned for row in table.by_setting[setting])
    return len(sizes) > 1 or (bool(sizes) and not arm)


def positions(line: Line) -> int | None:
    """The fewest positions (height × width) a normalized map of the line's net has, from n and normalization batch."""
    found = {
        row.values_min // row.normalization_batch
        for point in line.points
        for row in point.rows
        if row.values_min and row.normalization_batch
    }
    return min(found) if found else None


def _lines(
    setting: Setting, rows: Sequence[Row], x: Callable[[Row], int | None], *, by_step: bool = False
) -> list[Line]:
    several_devices = len({row.devices for row in rows}) > 1
    groups: dict[tuple[str, str, int | None, int | None], dict[int, list[Row]]] = {}
    norms = {}
    for row in rows:
        at = x(row)
        if at is None:
            continue
        norms[row.variant] = row.norm
        key = (row.variant, row.placement, row.devices if several_devices else None, row.batch if by_step else None)
        groups.setdefault(key, defaultdict(list))[at].append(row)
    return [
        Line(setting, norms[key[0]], *key, points=tuple(point_of(at, cells) for at, cells in sorted(found.items())))
        for key, found in groups.items()
    ]


def point_of(x: int, rows: Sequence[Row]) -> Point:
    """The cells at one place, summarised."""
    missing = Counter(row.status for row in rows if row.metric(ERROR) is None)
    return Point(x, stat(rows), tuple(sorted(missing.items())), tuple(rows))
