"""What the norms are to reach in time and memory, and whether a row of `normzoo bench layers` does."""

from collections.abc import Sequence
from dataclasses import dataclass

from normzoo.bench.figure import VERDICTS, Figure
from normzoo.bench.measure import Ratio
from normzoo.bench.row import LayerRow
from normzoo.norm_info import NormInfo
from normzoo.registry import info

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
    """A figure that is the median of ratios, and whose values are the quartiles over rounds."""

    ratio: Ratio | None = None

    @property
    def median(self) -> float | None:
        return None if self.ratio is None else self.ratio.median

    @property
    def spread(self) -> str:
        return "" if self.ratio is None else f" ({self.ratio.low:.3g} to {self.ratio.high:.3g})"


def timed(norm: NormInfo, device: str) -> dict[str, float]:
    """The targets of a norm's time: of a row's `forward`, and of forward and backward, `both`."""
    if norm.name == "identity":  # which does nothing, in no time
        return {}
    if norm.fused:
        return {"forward": FUSED, "both": FUSED}
    if norm.name in LIGHT:
        return {"both": LIGHT_TIME}
    return {"both": RMS_NORM} if norm.name == "rms_norm" and device == "cpu" else {}


def targets(row: LayerRow, device: str) -> list[Figure]:
    """What a norm is to reach, with what its row has; of some, such as `identity`, nothing is asked."""
    norm = info(row.norm.partition(",")[0])
    figures: list[Figure] = [_time(row, part, target) for part, target in timed(norm, device).items()]
    if norm.fused or norm.name == "identity":
        return figures
    if norm.name in LIGHT:
        saved = () if row.saved is None or row.saved_against is None else (row.saved / row.saved_against,)
        unit, target = "× timm's", LIGHT_SAVED
    else:
        saved = () if row.saved is None else (row.saved,)
        unit, target = "× the input", SAVED
    return [*figures, Figure(f"{row.norm}, saved", unit, target, True, saved, "" if saved else row.note)]


def _time(row: LayerRow, part: str, target: float) -> Figure:
    ratio, title = getattr(row, part), {"both": "forward+backward"}.get(part, part)
    values = () if ratio is None else (ratio.low, ratio.high)
    return RatioFigure(f"{row.norm}, {title}", "×", target, True, values, "" if ratio else row.note, ratio)


def summary(figures: Sequence[Figure]) -> str:
    """How many targets are reached, and which are not."""
    lines = [f"{sum(figure.reached is True for figure in figures)} of {len(figures)} targets reached"]
    for reached in (False, None):
        lines += [f"{VERDICTS[reached]}: {figure.name}" for figure in figures if figure.reached is reached]
    return "\n".join(lines)
