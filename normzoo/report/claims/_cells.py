"""Choosing among a claim's records, and summing them up over seeds."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normzoo.results import CellResult

Metric = str | Callable[[CellResult], float | None]


@dataclass(frozen=True)
class Spread:
    """A metric over seeds: one value a seed, in the order of the seeds."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation; None for a single seed."""
        if len(self.values) < 2:
            return None
        return math.sqrt(math.fsum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))

    def text(self, digits: int = 1, unit: str = "") -> str:
        """`8.2 ± 0.3 % (n = 3)`."""
        spread = "" if self.std is None else f" ± {self.std:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}{f' {unit}' if unit else ''} (n = {self.n})"


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


def spread(records: Iterable[CellResult], metric: Metric) -> Spread | None:
    """The metric of the cells that came to an end, one value a seed; None where none has it.

    A metric is a name in the record's `metrics`, or a function of the record.
    """
    seeds: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if record.status == "ok":
            value = metric(record) if callable(metric) else record.metrics.get(metric)
            if value is not None and math.isfinite(value):
                seeds[record.seed].append(value)
    values = tuple(math.fsum(found) / len(found) for _, found in sorted(seeds.items()))
    return Spread(values) if values else None


def text(value: Spread | None, records: Iterable[CellResult] = (), digits: int = 1, unit: str = "") -> str:
    """A spread in words, and what became of the cells that have no number."""
    gone = lost(records)
    if value is None:
        return gone or "no such cells"
    return value.text(digits, unit) + (f", {gone}" if gone else "")


def lost(records: Iterable[CellResult]) -> str:
    """How many cells came to no number, by status: `2 diverged, 1 timeout`; empty where all are ok."""
    counts = Counter(record.status for record in records if record.status != "ok")
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def curves(records: Sequence[CellResult], x: str, y: str) -> tuple[list[float], list[Spread]]:
    """The points of the records' curves, summed up over seeds at each x that some record has."""
    points: dict[float, list[float]] = defaultdict(list)
    for record in records:
        for point in record.curve:
            at, value = point.get(x), point.get(y)
            if at is not None and value is not None and math.isfinite(value):
                points[at].append(value)
    xs = sorted(points)
    return xs, [Spread(tuple(points[at])) for at in xs]
