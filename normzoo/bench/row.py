"""What `normzoo bench layers` measures of a norm."""

from dataclasses import dataclass

from normzoo.bench.measure import Ratio


@dataclass(frozen=True)
class LayerRow:
    """What was measured of one norm; a ratio is None where there was nothing to compare with."""

    norm: str
    against: str
    shape: tuple[int, ...]
    milliseconds: tuple[float, float] | None = None
    """Median of forward, and of forward and backward."""
    forward: Ratio | None = None
    both: Ratio | None = None
    saved: float | None = None
    """Bytes kept for the backward by the bytes of the input."""
    saved_against: float | None = None
    compiled_forward: Ratio | None = None
    """Of the compiled norm to what the norm is compared with, which is not compiled."""
    compiled_both: Ratio | None = None
    compiled_saved: float | None = None
    note: str = ""
