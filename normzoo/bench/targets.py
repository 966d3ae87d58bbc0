"""Targets for time and memory of the norms, and the verdict on each row of `normzoo bench layers`."""

from collections.abc import Sequence
from dataclasses import dataclass

from normzoo.bench.measure import LayerRow, Ratio
from normzoo.bench.measurement import VERDICTS, Measurement
from normzoo.norm_info import NormInfo
from normzoo.registry import info

FUSED = 1.05
"""Maximum time of a norm with a fused kernel relative to torch's layer, for forward and for forward plus backward."""
LIGHT = ("filter_response_norm", *(f"evo_norm_{kind}" for kind in ("b0", "b1", "b2", "s0", "s1", "s2")))
LIGHT_TIME = LIGHT_SAVED = 0.5
"""Maximum time (forward plus backward) and saved bytes of `LIGHT` relative to timm's layers."""
RMS_NORM = 0.7
"""Maximum time of rms_norm (forward plus backward) relative to torch's, on the CPU."""
SAVED = 2.0
"""Maximum saved bytes of any other norm without a fused kernel, relative to those of its input."""


@dataclass(frozen=True)
class RatioMeasurement(Measurement):
    """A measured ratio whose values are the quartiles over rounds."""

    ratio: Ratio | None = None

    @property
    def median(self) -> float | None:
        """The median ratio; None if it was not measured."""
        return None if self.ratio is None else self.ratio.median

    @property
    def spread(self) -> str:
        """The quartiles, as text."""
        return "" if self.ratio is None else f" ({self.ratio.low:.3g} to {self.ratio.high:.3g})"


def timed(norm: NormInfo, device: str) -> dict[str, float]:
    """Return the time targets of a norm, by row field: `forward`, and `both` for forward plus backward."""
    if norm.name == "identity":  # a ratio of two times near zero means nothing
        return {}
    if norm.fused:
        return {"forward": FUSED, "both": FUSED}
    if norm.name in LIGHT:
        return {"both": LIGHT_TIME}
    return {"both": RMS_NORM} if norm.name == "rms_norm" and device == "cpu" else {}


def targets(row: LayerRow, device: str) -> list[Measurement]:
    """Compare a row with the targets of its norm; some norms, such as `identity`, have none."""
    norm = info(row.norm.partition(",")[0])
    figures: list[Measurement] = [_time(row, part, target) for part, target in timed(norm, device).items()]
    if norm.fused or norm.name == "identity":
        return figures
    if norm.name in LIGHT:
        saved = () if row.saved is None or row.saved_against is None else (row.saved / row.saved_against,)
        unit, target = "× timm's", LIGHT_SAVED
    else:
        saved = () if row.saved is None else (row.saved,)
        unit, target = "× the input", SAVED
    return [*figures, Measurement(f"{row.norm}, saved", unit, target, True, saved, "" if saved else row.note)]


def _time(row: LayerRow, part: str, target: float) -> Measurement:
    ratio, title = getattr(row, part), {"both": "forward+backward"}.get(part, part)
    values = () if ratio is None else (ratio.low, ratio.high)
    return RatioMeasurement(f"{row.norm}, {title}", "×", target, True, values, "" if ratio else row.note, ratio)


def summary(figures: Sequence[Measurement]) -> str:
    """Summarize how many targets are reached, and list the others."""
    lines = [f"{sum(figure.reached is True for figure in figures)} of {len(figures)} targets reached"]
    for reached in (False, None):
        lines += [f"{VERDICTS[reached]}: {figure.name}" for figure in figures if figure.reached is reached]
    return "\n".join(lines)
