"""Choosing among a claim's records, and summing them up over seeds."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normzoo.report.series import Stat, over_seeds
from normzoo.results import CellResult

Metric = str | Callable[[CellResult], float | None]


def entry(record: CellResult, key: str, default: Any = None) -> Any:
    """An entry of the record's config by its full name, `norm.group_size`."""
    value: Any = record.config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def where(records: Iterable[CellResult], **wanted: Any) -> list[CellResult]:
    """The records whose config has these entries: `where(records, norm="batch_norm", model__activation="tanh")`.

    A group is asked for by its name, and a double underscore stands for the dot.
    """
    chosen = []
    for record in records:
        for key, value in wanted.items():
            found = entry(record, key.replace("__", "."))
            if (found.get("name") if isinstance(found, Mapping) else found) != value:
                break
        else:
            chosen.append(record)
    return chosen


def split(records: Iterable[CellResult], key: str) -> dict[Any, list[CellResult]]:
    """The records by an entry of their config, a group by its name, in the order of first appearance."""
    groups: dict[Any, list[CellResult]] = defaultdict(list)
    for record in records:
        found = entry(record, key)
        groups[found.get("name") if isinstance(found, Mapping) else found].append(record)
    return dict(groups)


def spread(records: Iterable[CellResult], metric: Metric) -> Stat | None:
    """The metric of the cells that came to an end, one value a seed; None where none has it.

    A metric is a name in the record's `metrics`, or a function of the record.
    """
    seeds: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if record.status == "ok":
            value = metric(record) if callable(metric) else record.metrics.get(metric)
            if value is not None and math.isfinite(value):
                seeds[record.seed].append(value)
    return over_seeds(seeds)


@dataclass(frozen=True)
class Outcome:
    """What a check takes of an arm: a metric over seeds, and what became of the cells that have none.

    Args:
        stat: Over the cells with a number; None where none has one.
        diverged: How many cells diverged, or in some other way trained to nothing: a result, and a bad one.
        missing: How many have no result: they failed, or ended without this metric.
        lost: The same in words.
        cells: All cells of the arm.
        edge: That its best learning rate stands at the edge of those tried.
    """

    stat: Stat | None = None
    diverged: int = 0
    missing: int = 0
    lost: str = ""
    cells: Sequence[CellResult] = ()
    edge: str = ""


def outcome(records: Iterable[CellResult], metric: Metric) -> Outcome:
    """The metric of these cells for a check; those without it are not passed over in silence, as `spread` does."""
    records = list(records)
    diverged = sum(record.status == "diverged" for record in records)
    numbers = sum(spread([record], metric) is not None for record in records)
    missing = len(records) - diverged - numbers
    return Outcome(spread(records, metric), diverged, missing, lost(records), records)


def text(value: Stat | None, records: Iterable[CellResult] = (), digits: int = 1, unit: str = "") -> str:
    """`8.2 ± 0.3 % (n = 3), 1 diverged`: a statistic, and what became of the cells that have no number."""
    gone = lost(records)
    if value is None:
        return gone or "no such cells"
    std = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{std}{f' {unit}' if unit else ''} (n = {value.n}){f', {gone}' if gone else ''}"


def ran(records: Iterable[CellResult]) -> list[CellResult]:
    """The cells that ran to their end, or until they diverged; one that was ended from outside tells of nothing."""
    return [record for record in records if record.status in ("ok", "diverged")]


def lost(records: Iterable[CellResult]) -> str:
    """How many cells came to no number, by status: `2 diverged, 1 timeout`; empty where all are ok."""
    counts = Counter(record.status for record in records if record.status != "ok")
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def curves(records: Sequence[CellResult], x: str, y: str) -> tuple[list[float], list[Stat]]:
    """The points of the records' curves, summed up over seeds at each x that some record has.

    Of a cell that failed on its way nothing is taken, of one that diverged what it has up to there.
    """
    points: dict[float, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in ran(records):
        for point in record.curve:
            at, value = point.get(x), point.get(y)
            if at is not None and value is not None and math.isfinite(value):
                points[at][record.seed].append(value)
    return sorted(points), [found for at in sorted(points) if (found := over_seeds(points[at])) is not None]
