"""What probes recorded along the training of a claim's cells, summed up over seeds."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from normzoo.recording import read_recording
from normzoo.report.series import Stat, over_seeds
from normzoo.results import CellResult

Arrays = Mapping[str, Any]


def recordings(records: Iterable[CellResult]) -> list[tuple[CellResult, Arrays]]:
    """The records that left arrays, with these; a cell that diverged has those up to there."""
    found = [(record, read_recording(record.folder)) for record in records if record.folder is not None]
    return [(record, arrays) for record, arrays in found if arrays]


def series(
    records: Iterable[CellResult], x: str, y: Callable[[Arrays], Sequence[float]]
) -> tuple[list[float], list[Stat]]:
    """Values by step, or by layer, over seeds, where they are finite.

    Args:
        x: The array of steps; empty to number the values from 1.
        y: Of a cell's arrays, one value for each x.
    """
    points: dict[float, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record, arrays in recordings(records):
        values = y(arrays)
        for at, value in zip(arrays[x] if x else range(1, len(values) + 1), values, strict=True):
            if math.isfinite(value):
                points[float(at)][record.seed].append(float(value))
    xs = sorted(points)
    return xs, [stat for at in xs if (stat := over_seeds(points[at])) is not None]
