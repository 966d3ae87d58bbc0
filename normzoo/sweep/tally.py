"""How far a sweep is, in figures: what is done, what runs, the best of each norm, the time left."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from normzoo.text import printable


@dataclass(frozen=True)
class Best:
    """A norm's lowest error so far: the mean over seeds of the cells that differ in nothing else."""

    norm: str
    done: int
    cells: int
    error: float | None = None
    seeds: int = 0
    setting: str = ""


class Standing:
    """What is known of a sweep's cells while they run.

    Args:
        labels: Of the cells, in the order they run: overrides with spaces between them.
        costs: What each cell is expected to cost, in any unit; time left is told from the cost done so far.
        n_jobs: Cells that run at once.
        norms: The norm of each cell.
    """

    def __init__(
        self, labels: Sequence[str], costs: Sequence[float], n_jobs: int, norms: Sequence[str] | None = None
    ) -> None:
        self.labels, self.costs, self.n_jobs = [printable(label, keep="") for label in labels], costs, n_jobs
        self.norms = [printable(norm, keep="") for norm in norms] if norms else [""] * len(labels)
        self.started = time.monotonic()
        self.running: dict[int, float] = {}
        self.so_far: dict[int, str] = {}
        self.done: set[int] = set()
        self.failures: list[tuple[str, str]] = []
        self.seconds_per_cost: list[tuple[float, float]] = []
        self._errors: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._cells_of: dict[str, list[int]] = {norm: [0, 0] for norm in self.norms}  # done, all
        for norm in self.norms:
            self._cells_of[norm][1] += 1

    def earlier(self, label: str, norm: str, error: float | None) -> None:
        """Count in a cell that an earlier run had finished: for its norm's best error, not for the time left."""
        counts = self._cells_of.setdefault(norm, [0, 0])
        counts[0] += 1
        counts[1] += 1
        self._take(label, norm, error)

    def time_left(self) -> str:
        """Minutes and seconds, from the cost of the cells still to end."""
        seconds, cost = (
            (sum(values) for values in zip(*self.seconds_per_cost, strict=True))
            if self.seconds_per_cost
            else (0.0, 0.0)
        )
        if not cost:
            return "?:??"
        now = time.monotonic()
        rate = seconds / cost
        remaining = sum(self.costs[i] for i in range(len(self.labels)) if i not in self.done) * rate
        remaining -= sum(min(now - since, self.costs[i] * rate) for i, since in self.running.items())
        return clock(max(0.0, remaining) / min(self.n_jobs, max(1, len(self.labels) - len(self.done))))

    def best(self) -> Iterator[Best]:
        """Every norm, the lowest error first, those without one last."""
        found: dict[str, Best] = {}
        for norm, (done, cells) in self._cells_of.items():
            found[norm] = Best(norm, done, cells)
        for (norm, setting), errors in self._errors.items():
            error, known = fmean(errors), found[norm]
            if known.error is None or error < known.error:
                found[norm] = Best(norm, known.done, known.cells, error, len(errors), setting)
        return iter(sorted(found.values(), key=lambda best: math.inf if best.error is None else best.error))

    def _take(self, label: str, norm: str, error: float | None) -> None:
        if error is not None:
            setting = " ".join(word for word in label.split() if not word.startswith(("seed=", "norm=")))
            self._errors[norm, setting].append(error)


def clock(seconds: float) -> str:
    """Minutes and seconds, from an hour on with the hours."""
    whole = round(seconds)
    minutes = f"{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
    return (f"{whole // 3600}:" if whole >= 3600 else "") + f"{minutes}:{whole % 60:02d}"
