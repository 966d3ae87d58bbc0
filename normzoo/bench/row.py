"""One row of `normzoo bench layers`."""

from dataclasses import dataclass

from normzoo.bench.measure import Ratio


@dataclass(frozen=True)
class LayerRow:
    """Measurements of one norm; a ratio is None without a reference."""

    norm: str
    against: str
    shape: tuple[int, ...]
    milliseconds: tuple[float, float] | None = None
    """Medians of forward, and of forward plus backward."""
    forward: Ratio | None = None
    both: Ratio | None = None
    saved: float | None = None
    """Bytes saved for the backward, relative to those of the input."""
    saved_against: float | None = None
    compiled_forward: Ratio | None = None
    """The compiled norm relative to the reference, which is not compiled."""
    compiled_both: Ratio | None = None
    compiled_saved: float | None = None
    note: str = ""
