"""The line that says how far a sweep is."""

import sys
import time
from collections.abc import Sequence
from typing import TextIO


class Progress:
    """Prints one line for each cell that ends and, on a terminal, keeps one more on what is running.

    Args:
        labels: Of the cells, in the order they run.
        costs: What each cell is expected to cost, in any unit; time left is told from the cost done so far.
        n_jobs: Cells that run at once.
        stream: Where the lines go.
    """

    def __init__(
        self, labels: Sequence[str], costs: Sequence[float], n_jobs: int, stream: TextIO | None = None
    ) -> None:
        self.labels, self.costs, self.n_jobs = labels, costs, n_jobs
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.started = time.monotonic()
        self.running: dict[int, float] = {}
        self.done: set[int] = set()
        self.seconds_per_cost: list[tuple[float, float]] = []

    def start(self, index: int) -> None:
        self.running[index] = time.monotonic()

    def end(self, index: int, outcome: str) -> None:
        """Cell `index` ended; `outcome` is its error, or what became of it."""
        seconds = time.monotonic() - self.running.pop(index)
        self.done.add(index)
        self.seconds_per_cost.append((seconds, self.costs[index]))
        self._print(
            f"cell {len(self.done)}/{len(self.labels)}  {self.labels[index]}  {outcome}  {seconds:.1f} s  "
            f"{self.time_left()} left"
        )

    def show_running(self, errors_so_far: Sequence[str]) -> None:
        """Redraw the live line: what runs and the last error each has reported."""
        if not self.live or not self.running:
            return
        parts = [f"{self.labels[i]} {error}" for i, error in zip(self.running, errors_so_far, strict=False)]
        line = f"{len(self.done)}/{len(self.labels)} done, {self.time_left()} left, running: " + " | ".join(parts)
        self.stream.write("\r\x1b[2K" + line[:200])
        self.stream.flush()

    def time_left(self) -> str:
        """Minutes and seconds, from the cost of the cells still to end."""
        seconds, cost = (
            (sum(values) for values in zip(*self.seconds_per_cost, strict=True)) if self.done else (0.0, 0.0)
        )
        if not cost:
            return "?:??"
        now = time.monotonic()
        rate = seconds / cost
        remaining = sum(self.costs[i] for i in range(len(self.labels)) if i not in self.done) * rate
        remaining -= sum(min(now - since, self.costs[i] * rate) for i, since in self.running.items())
        left = round(max(0.0, remaining) / min(self.n_jobs, max(1, len(self.labels) - len(self.done))))
        return f"{left // 60}:{left % 60:02d}"

    def _print(self, line: str) -> None:
        self.stream.write(("\r\x1b[2K" if self.live else "") + line + "\n")
        self.stream.flush()
