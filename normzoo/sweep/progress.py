"""How far a sweep is: a line for each cell that ends and, on a terminal, a live table below them."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from normzoo.sweep.tally import Standing
from normzoo.text import printable

if TYPE_CHECKING:
    from normzoo.sweep.live_table import LiveTable


class Progress(Standing):
    """Prints one line for each cell that ends and, on a terminal, keeps a table of what runs and what came of it.

    Used as a context, in which the table is alive: `with Progress(...) as progress:`. Where the output is no terminal,
    or one that cannot move its cursor, there are the lines alone.

    Args:
        labels, costs, n_jobs, norms: Those of `Standing`.
        stream: Where the lines go.
    """

    def __init__(
        self,
        labels: Sequence[str],
        costs: Sequence[float],
        n_jobs: int,
        stream: TextIO | None = None,
        norms: Sequence[str] | None = None,
    ) -> None:
        super().__init__(labels, costs, n_jobs, norms)
        self.stream = stream or sys.stdout
        self._table: LiveTable | None = None

    def __enter__(self) -> Self:
        if self.stream.isatty():
            from normzoo.sweep.live_table import LiveTable

            self._table = LiveTable.on(self, self.stream)
        if self._table:
            self._table.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._table:
            self._table.close()
            self._table = None

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
        outcome = printable(outcome, keep="")
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

    def _print(self, line: str) -> None:
        if self._table:
            self._table.print(line)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()

    def _redraw(self) -> None:
        if self._table:
            self._table.redraw()
