"""A figure with a target: what was measured, and whether it is reached."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

VERDICTS = {True: "reached", False: "NOT reached", None: "not measured"}


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
        return reaches(self.median, self.target, self.at_most)

    @property
    def spread(self) -> str:
        """Lowest and highest value, and how many there are."""
        low, high, count = min(self.values), max(self.values), len(self.values)
        return f" ({low:.3g} to {high:.3g}, {count} times)" if count > 1 else " (once)"

    def line(self) -> str:
        """Name, median, lowest and highest value, target, and whether it is reached; the note in the line below."""
        target = f"target {'≤' if self.at_most else '≥'} {self.target:g} {self.unit}"
        if self.median is None:
            found, verdict = VERDICTS[None], ""
        else:
            found = f"{told(self.median, self.target, self.at_most)} {self.unit}{self.spread}"
            verdict = VERDICTS[self.reached]
        return f"{self.name:<44} {found:<40} {target:<22} {verdict}".rstrip() + (
            f"\n    {self.note}" if self.note else ""
        )

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "values": list(self.values), "median": self.median, "reached": self.reached}


def reaches(value: float, target: float, at_most: bool) -> bool:
    """Whether the value is on the target's good side, or the target itself."""
    return value <= target if at_most else value >= target


def told(value: float, target: float, at_most: bool) -> str:
    """The value with three digits, or as many as show whether it reaches the target."""
    reached = reaches(value, target, at_most)
    digits = (n for n in range(3, 18) if reaches(float(f"{value:.{n}g}"), target, at_most) == reached)
    return f"{value:.{next(digits)}g}"
