"""How far a sweep is: a line for each cell that ends and, on a terminal, a live table below them."""

import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from normzoo.sweep.live import LiveTable


@dataclass(frozen=True)
class Best:
    """A norm's lowest error so far: the mean over seeds of the cells that differ in nothing else."""

    norm: str
    done: int
    cells: int
    error: float | None = None
    seeds: int = 0
    setting: str = ""


class Progress:
    """Prints one line for each cell that ends and, on a terminal, keeps a table of what runs and what came of it.

    Used as a context, in which the table is alive: `with Progress(...) as progress:`. Where the output is no terminal,
    or one that cannot move its cursor, there are the lines alone.

    Args:
        labels: Of the cells, in the order they run: overrides with spaces between them.
        costs: What each cell is expected to cost, in any unit; time left is told from the cost done so far.
        n_jobs: Cells that run at once.
        stream: Where the lines go.
        norms: The norm of each cell.
    """

    def __init__(
        self,
        labels: Sequence[str],
        costs: Sequence[float],
        n_jobs: int,
        stream: TextIO | None = None,
        norms: Sequence[str] | None = None,
    ) -> None:
        self.labels, self.costs, self.n_jobs = labels, costs, n_jobs
        self.stream = stream or sys.stdout
        self.norms = norms or [""] * len(labels)
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
        self._table: LiveTable | None = None

    def __enter__(self) -> Self:
        if self.stream.isatty():
            from normzoo.sweep.live import LiveTable

            self._table = LiveTable.on(self)
        if self._table:
            self._table.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._table:
            self._table.close()
            self._table = None

    def earlier(self, label: str, norm: str, error: float | None) -> None:
        """Count in a cell that an earlier run had finished: for its norm's best error, not for the time left."""
        counts = self._cells_of.setdefault(norm, [0, 0])
        counts[0] += 1
        counts[1] += 1
        self._take(label, norm, error)

    def start(self, index: int) -> None:
        """Cell `index` has begun."""
        self.running[index] = time.monotonic()
        self._redraw()

    def end(self, index: int, outcome: str, error: float | None = None, failed: bool = False) -> None:
        """Cell `index` has ended.

        Args:
            outcome: Its error, or what became of it, in words.
            error: In percent, where it has one.
            failed: Whether it is to be listed among the failures.
        """
        seconds = time.monotonic() - self.running.pop(index)
        self.so_far.pop(index, None)
        self.seconds_per_cost.append((seconds, self.costs[index]))
        self._end(index, outcome, error, failed, f"{seconds:.1f} s")

    def elsewhere(self, index: int, outcome: str, error: float | None = None, failed: bool = False) -> None:
        """Cell `index`, which never began here, was run by another sweep into the same folder."""
        self._end(index, outcome, error, failed, "by another sweep")

    def _end(self, index: int, outcome: str, error: float | None, failed: bool, how: str) -> None:
        self.done.add(index)
        self._cells_of[self.norms[index]][0] += 1
        self._take(self.labels[index], self.norms[index], error)
        if failed:
            self.failures.append((self.labels[index], outcome))
        self._print(
            f"cell {len(self.done)}/{len(self.labels)}  {self.labels[index]}  {outcome}  {how}  {self.time_left()} left"
        )

    def show_running(self, errors_so_far: Sequence[str]) -> None:
        """Redraw the table, with the last error that each running cell has reported, in the order of `running`."""
        self.so_far = dict(zip(self.running, errors_so_far, strict=False))
        self._redraw()

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

    def _print(self, line: str) -> None:
        if self._table:
            self._table.print(line)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()

    def _redraw(self) -> None:
        if self._table:
            self._table.redraw()


def clock(seconds: float) -> str:
    """Minutes and seconds, from an hour on with the hours."""
    whole = round(seconds)
    minutes = f"{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
    return (f"{whole // 3600}:" if whole >= 3600 else "") + f"{minutes}:{whole % 60:02d}"
