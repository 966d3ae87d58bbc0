"""A figure with a target: what was measured, and whether it is reached."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """Something measured several times.

    Args:
        name: What it is.
        unit: Of the values.
        target: That the median is to reach.
        at_most: Whether the target is an upper bound, and not a lower one.
        values: As measured; none where it could not be.
        note: What was measured, on what, and why not if it was not.
    """

    name: str
    unit: str
    target: float
    at_most: bool
    values: Sequence[float]
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None without a value."""
        if self.median is None:
            return None
        return self.median <= self.target if self.at_most else self.median >= self.target

    @property
    def spread(self) -> str:
        """Lowest and highest value, and how many there are."""
        low, high, count = min(self.values), max(self.values), len(self.values)
        return f" ({low:.3g} to {high:.3g}, {count} times)" if count > 1 else " (once)"

    def line(self) -> str:
        """Name, median, lowest and highest value, target, and whether it is reached; the note in the line below."""
        target = f"target {'≤' if self.at_most else '≥'} {self.target:g} {self.unit}"
        if self.median is None:
            found, verdict = "not measured", ""
        else:
            found = f"{self.median:.3g} {self.unit}{self.spread}"
            verdict = "reached" if self.reached else "NOT reached"
        return f"{self.name:<44} {found:<40} {target:<22} {verdict}".rstrip() + (
            f"\n    {self.note}" if self.note else ""
        )

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "values": list(self.values), "median": self.median, "reached": self.reached}
