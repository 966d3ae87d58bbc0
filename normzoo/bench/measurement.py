"""A measured quantity with a target."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

VERDICTS = {True: "reached", False: "NOT reached", None: "not measured"}


@dataclass(frozen=True)
class Measurement:
    """A quantity measured several times, with a target for its median.

    Args:
        name: What is measured.
        unit: Unit of the values.
        target: Bound on the median.
        at_most: Whether the target is an upper bound rather than a lower one.
        values: The measured values; empty if it could not be measured.
        note: Conditions of the measurement, or why there is none.
    """

    name: str
    unit: str
    target: float
    at_most: bool
    values: Sequence[float]
    note: str = ""

    @property
    def median(self) -> float | None:
        """The median of the values; None without values."""
        return statistics.median(self.values) if self.values else None

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the target; None without values."""
        if self.median is None:
            return None
        return reaches(self.median, self.target, self.at_most)

    @property
    def spread(self) -> str:
        """The lowest and highest value and the number of values, as text."""
        low, high, count = min(self.values), max(self.values), len(self.values)
        return f" ({low:.3g} to {high:.3g}, {count} times)" if count > 1 else " (once)"

    def line(self) -> str:
        """Return name, median, spread, target and verdict as one line, and the note below it."""
        target = f"target {'≤' if self.at_most else '≥'} {self.target:g} {self.unit}"
        if self.median is None:
            found, verdict = VERDICTS[None], ""
        else:
            found = f"{rounded(self.median, self.target, self.at_most)} {self.unit}{self.spread}"
            verdict = VERDICTS[self.reached]
        return f"{self.name:<44} {found:<40} {target:<22} {verdict}".rstrip() + (
            f"\n    {self.note}" if self.note else ""
        )

    def record(self) -> dict[str, Any]:
        """Return the measurement as plain data for JSON."""
        return {**asdict(self), "values": list(self.values), "median": self.median, "reached": self.reached}


def reaches(value: float, target: float, at_most: bool) -> bool:
    """Return whether the value meets the target."""
    return value <= target if at_most else value >= target


def rounded(value: float, target: float, at_most: bool) -> str:
    """Format the value with three digits, or with as many as it takes to show whether it meets the target."""
    reached = reaches(value, target, at_most)
    digits = (n for n in range(3, 18) if reaches(float(f"{value:.{n}g}"), target, at_most) == reached)
    return f"{value:.{next(digits)}g}"
