"""What the norms are to reach in time and memory, and whether a row of `normzoo bench layers` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normzoo.bench.figure import Figure
from normzoo.bench.measure import Ratio
from normzoo.registry import info

if TYPE_CHECKING:
    from normzoo.bench.layers import LayerRow

FUSED = 1.05
"""The most time of a norm with a fused kernel, by that of torch's layer, forward and with the backward."""
LIGHT = ("filter_response_norm", *(f"evo_norm_{kind}" for kind in ("b0", "b1", "b2", "s0", "s1", "s2")))
LIGHT_TIME = LIGHT_SAVED = 0.5
"""The most time, forward and backward, and bytes kept of `LIGHT`, by those of timm's layers."""
RMS_NORM = 0.7
"""The most time of rms_norm, forward and backward, by that of torch's on the processor."""
SAVED = 2.0
"""The most bytes that any other norm without a fused kernel keeps, by those of its input."""


@dataclass(frozen=True)
class RatioFigure(Figure):
    """A figure that is the ratio of two medians, and whose values are the quartiles over rounds."""

    ratio: Ratio | None = None

    @property
    def median(self) -> float | None:
        return None if self.ratio is None else self.ratio.median

    @property
    def spread(self) -> str:
        return "" if self.ratio is None else f" ({self.ratio.low:.3g} to {self.ratio.high:.3g})"


def targets(row: "LayerRow", device: str) -> list[Figure]:
    """What a norm is to reach, with what its row has; of some, such as `identity`, nothing is asked."""
    norm = info(row.norm.partition(",")[0])
    if norm.name == "identity":  # which does nothing, in no time
        return []
    if norm.fused:
        return [_time(row, "forward", row.forward, FUSED), _time(row, "forward+backward", row.both, FUSED)]
    if norm.name in LIGHT:
        saved = () if row.saved is None or row.saved_against is None else (row.saved / row.saved_against,)
        return [
            _time(row, "forward+backward", row.both, LIGHT_TIME),
            Figure(f"{row.norm}, saved", "× timm's", LIGHT_SAVED, True, saved, "" if saved else row.note),
        ]
    figures = []
    if norm.name == "rms_norm" and device == "cpu":
        figures.append(_time(row, "forward+backward", row.both, RMS_NORM))
    saved = () if row.saved is None else (row.saved,)
    return [*figures, Figure(f"{row.norm}, saved", "× the input", SAVED, True, saved, "" if saved else row.note)]


def _time(row: "LayerRow", part: str, ratio: Ratio | None, target: float) -> Figure:
    values = () if ratio is None else (ratio.low, ratio.high)
    note = "" if ratio else row.note
    return RatioFigure(f"{row.norm}, {part}", "×", target, True, values, note, ratio)


def summary(figures: Sequence[Figure]) -> str:
    """How many targets are reached, and which are not."""
    counts = {verdict: [figure for figure in figures if figure.reached is verdict] for verdict in (True, False, None)}
    lines = [f"{len(counts[True])} of {len(figures)} targets reached"]
    lines += [f"NOT reached: {figure.name}" for figure in counts[False]]
    lines += [f"not measured: {figure.name}" for figure in counts[None]]
    return "\n".join(lines)
