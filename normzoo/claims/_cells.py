"""Choose among the cells of a claim, and sum them up over seeds."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from normzoo.recording import read_recording
from normzoo.report.facets import ABSENT
from normzoo.report.frame import CONFIG, METRIC, build_table
from normzoo.report.series import Stat, over_seeds, over_seeds_along
from normzoo.results import CellResult
from normzoo.text import counted

Metric = str | Callable[[CellResult], float | None]
Curve = tuple[list[float], list[Stat]]


def frame(records: Sequence[CellResult]) -> pd.DataFrame:
    """Lay out records as the report's frame, in their own order, with a column for each entry of their configs."""
    cells = build_table(records).cells
    entries = cells.filter(regex=f"^{CONFIG}.*[.]").rename(columns=lambda name: name.removeprefix(CONFIG))
    cells = cells.join(entries.where(entries != ABSENT).infer_objects())
    place = {record.cell: i for i, record in enumerate(records)}
    return cells.iloc[sorted(range(len(cells)), key=lambda row: place[cells.record.iloc[row].cell])]


def where(cells: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Select the cells with these values: `where(cells, norm="batch_norm", model__activation="tanh")`.

    A double underscore stands for the dot in an entry's full name.
    """
    for name, value in wanted.items():
        column = name.replace("__", ".")
        cells = cells[cells[column] == value] if column in cells else cells[:0]
    return cells


def split(cells: pd.DataFrame, column: str) -> dict[Any, pd.DataFrame]:
    """Group the cells by a column, in the order of first appearance."""
    return dict(list(cells.groupby(column, sort=False))) if column in cells else {}


def ran(cells: pd.DataFrame) -> pd.DataFrame:
    """Select the cells that finished or diverged; one that was ended from outside is no evidence."""
    return cells[cells.status.isin(("ok", "diverged"))]


def lost(cells: pd.DataFrame, form: str = "{}") -> str:
    """Count the cells without a result by status, as `2 diverged, 1 timeout`; return nothing where all are ok."""
    counts = Counter(status for status in cells.status if status != "ok")
    return form.format(", ".join(f"{count} {status}" for status, count in counts.items())) if counts else ""


def values(cells: pd.DataFrame, metric: Metric) -> pd.Series:
    """Return the metric of each cell that finished, and NaN for the others.

    Args:
        cells: The cells.
        metric: A name in the record's `metrics`, or a function of the record.
    """
    if callable(metric):
        found = pd.Series([metric(record) for record in cells.record], cells.index, dtype=float)
    else:
        found = cells.get(METRIC + metric, pd.Series(math.nan, cells.index))
    return found.where(cells.status == "ok")


def summary(cells: pd.DataFrame, found: pd.Series) -> Stat | None:
    """Summarize one value a cell over seeds."""
    return over_seeds({seed: list(own) for seed, own in found.dropna().groupby(cells.seed)})


def spread(cells: pd.DataFrame, metric: Metric) -> Stat | None:
    """Summarize a metric over seeds; None where no cell has it."""
    return summary(cells, values(cells, metric))


def curves(cells: pd.DataFrame, x: str, y: str) -> Curve:
    """Summarize curves over seeds at each x; a cell that diverged counts up to there, one that failed not at all."""
    return _over_seeds(
        (record.seed, point.get(x), point.get(y)) for record in ran(cells).record for point in record.curve
    )


def recordings(cells: pd.DataFrame) -> list[tuple[CellResult, dict[str, Any]]]:
    """Return the records that left arrays, with these; a cell that diverged has those up to there."""
    found = [(record, read_recording(record.folder)) for record in cells.record if record.folder is not None]
    return [(record, arrays) for record, arrays in found if arrays]


def recorded(cells: pd.DataFrame, x: str, y: Callable[[dict[str, Any]], Sequence[float]]) -> Curve:
    """Summarize recorded values over seeds, by step or by layer.

    Args:
        cells: The cells.
        x: The array of steps; empty to number the values from 1.
        y: Gives the values of a cell's arrays, one for each x.
    """
    points = []
    for record, arrays in recordings(cells):
        found = y(arrays)
        steps = arrays[x] if x else range(1, len(found) + 1)
        points += [(record.seed, at, value) for at, value in zip(steps, found, strict=True)]
    return _over_seeds(points)


def _over_seeds(points: Iterable[tuple[int, float | None, float | None]]) -> Curve:
    found = over_seeds_along(points)
    return [x for x, _ in found], [stat for _, stat in found]


def show(value: Stat | None, digits: int = 1) -> str:
    """Write a statistic as mean ± std."""
    if value is None:
        return "no number"
    return f"{value.mean:.{digits}f}" + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def text(value: Stat | None, cells: pd.DataFrame | None = None, digits: int = 1, unit: str = "") -> str:
    """Write `8.2 ± 0.3 % (3 seeds), 1 diverged`: a statistic, and what became of the cells without a number."""
    gone = "" if cells is None else lost(cells)
    if value is None:
        return gone or "no such cells"
    return (
        f"{show(value, digits)}{f' {unit}' if unit else ''} ({counted(value.n, 'seed')}){f', {gone}' if gone else ''}"
    )
