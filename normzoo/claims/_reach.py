"""After how many steps a net is as accurate as another one ever gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normzoo.claims._cells import ran
from normzoo.claims._compare import show
from normzoo.report.series import Stat, over_seeds
from normzoo.results import CellResult


@dataclass(frozen=True)
class Reached:
    """After how many steps the cells of an arm are as accurate as the plain net of the same seed ever gets.

    `diverged` of them did so sooner or later, and `missing` failed, or have no plain net to be compared with.
    """

    steps: Stat | None
    never: int
    diverged: int = 0
    missing: int = 0

    def __str__(self) -> str:
        seeds = (self.steps.n if self.steps else 0) + self.never
        if self.steps is None:
            return f"never (n = {seeds})" if seeds else "no such cells"
        return show(self.steps, 0) + (f" (never in {self.never} of {seeds} seeds)" if self.never else "")

    @property
    def gone(self) -> str:
        """What became of the others, for the figures of a check."""
        counts = {"diverged": self.diverged, "not to be compared": self.missing}
        found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f" ({found})" if found else ""


def reach(cells: Sequence[CellResult], plain: Sequence[CellResult]) -> Reached:
    """The step of the first check at which a cell is as accurate as the plain net of its seed at its best.

    A cell that was ended from outside is no evidence, neither of what its net can reach nor of what it never does.
    """
    levels = {
        record.seed: best for record in plain if record.status == "ok" and (best := best_accuracy(record)) is not None
    }
    none = {record.seed for record in plain if record.status == "diverged"}
    finished = ran(cells)
    steps: dict[int, list[float]] = {}
    never, missing = 0, len(cells) - len(finished)
    for record in finished:
        if record.seed in levels:
            at = [
                point["step"] for point in points(record) if 100.0 - point["val_error_running"] >= levels[record.seed]
            ]
            never += not at
            if at:
                steps.setdefault(record.seed, []).append(float(at[0]))
        elif record.seed not in none:
            missing += 1
    return Reached(over_seeds(steps), never, sum(record.status == "diverged" for record in cells), missing)


def best_accuracy(record: CellResult) -> float | None:
    """Of all checks, in percent."""
    errors = [point["val_error_running"] for point in points(record)]
    return 100.0 - min(errors) if errors else None


def points(record: CellResult) -> list[Mapping[str, Any]]:
    """The checks along its training that have an error."""
    return [point for point in record.curve if point.get("val_error_running") is not None]
