"""How far a sweep is: a line for each cell that ends, and figures for the live table of a terminal."""

import math
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self, TextIO

from normzoo.results import CellResult
from normzoo.sweep.cell import Cell, is_given_up, summary
from normzoo.sweep.cell_lock import FILE_NAME as LOCK
from normzoo.text import clock, printable
from normzoo.training.callbacks import error_so_far


@dataclass(frozen=True)
class Best:
    """A norm's lowest error so far: the mean over seeds of cells that differ in nothing else."""

    norm: str
    done: int
    cells: int
    error: float | None = None
    seeds: int = 0
    setting: str = ""


class Progress:
    """Prints one line for each cell that ends, and knows what runs and what came of the others.

    Used as a context: `with Progress(...) as progress:`.

    Args:
        labels: Of the cells, in the order they run: overrides with spaces between them.
        costs: What each cell is expected to cost, in any unit.
        n_jobs: Cells that run at once.
        norms: The norm of each cell.
        stream: Where the lines go.
    """

    def __init__(
        self,
        labels: Sequence[str],
        costs: Sequence[float],
        n_jobs: int,
        norms: Sequence[str],
        stream: TextIO | None = None,
    ) -> None:
        self.labels, self.costs, self.n_jobs = [printable(label, keep="") for label in labels], costs, n_jobs
        self.norms = [printable(norm, keep="") for norm in norms]
        self.stream = stream or sys.stdout
        self.started = time.monotonic()
        self.running: dict[int, float] = {}
        self.so_far: dict[int, str] = {}
        self.done: set[int] = set()
        self.failures: list[tuple[str, str]] = []
        self._seconds = self._cost = 0.0  # of the cells that have run here
        self._errors: dict[tuple[str, str], list[float]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def start(self, index: int) -> None:
        """Count a cell as running."""
        self.running[index] = time.monotonic()
        self.redraw()

    def end(self, index: int, result: CellResult, *, elsewhere: bool = False) -> None:
        """Count a cell as ended, and print its line.

        Args:
            index: Of the cell.
            result: Its record.
            elsewhere: Whether another sweep into the same folder has run it.
        """
        how = "by another sweep"
        if not elsewhere:
            seconds = time.monotonic() - self.running.pop(index)
            self.so_far.pop(index, None)
            self._seconds, self._cost, how = self._seconds + seconds, self._cost + self.costs[index], f"{seconds:.1f} s"
        label, text = self.labels[index], printable(summary(result), keep="")
        self.done.add(index)
        error = result.metrics.get("val_error_running")
        if result.status != "ok":
            self.failures.append((label, text))
        elif error is not None:
            setting = " ".join(word for word in label.split() if not word.startswith(("seed=", "norm=")))
            self._errors[self.norms[index], setting].append(error)
        self.print(f"cell {len(self.done)}/{len(self.labels)}  {label}  {text}  {how}  {self.time_left()} left")

    def show_running(self, errors_so_far: Sequence[str]) -> None:
        """Show the last error that each running cell has reported, in the order of `running`."""
        self.so_far = dict(zip(self.running, errors_so_far, strict=False))
        self.redraw()

    def print(self, line: str) -> None:
        """Print a line at once."""
        print(line, file=self.stream, flush=True)

    def redraw(self) -> None:
        """Show what has changed, where there is a table."""

    def time_left(self) -> str:
        """Estimate minutes and seconds from the cost of the cells that have not ended."""
        if not self._cost:
            return "?:??"
        now, rate = time.monotonic(), self._seconds / self._cost
        left = [cost * rate for index, cost in enumerate(self.costs) if index not in self.done]
        gone = sum(min(now - since, self.costs[index] * rate) for index, since in self.running.items())
        return clock(max(0.0, sum(left) - gone) / min(self.n_jobs, max(1, len(left))))

    def best(self) -> list[Best]:
        """List every norm, the lowest error first, those without one last."""
        done, cells = Counter(self.norms[index] for index in self.done), Counter(self.norms)
        found = {norm: Best(norm, done[norm], cells[norm]) for norm in cells}
        for (norm, setting), errors in self._errors.items():
            error, known = fmean(errors), found[norm].error
            if known is None or error < known:
                found[norm] = Best(norm, done[norm], cells[norm], error, len(errors), setting)
        return sorted(found.values(), key=lambda best: math.inf if best.error is None else best.error)


class Watch:
    """Follows, while it is used as a context, cells that an engine runs, by what is in their folders.

    Args:
        cells: That are to run.
        progress: Of the cells.
        every_s: Seconds between two looks at their folders.
    """

    def __init__(self, cells: Sequence[Cell], progress: Progress, every_s: float = 1.0) -> None:
        self.cells, self.progress, self.every_s = cells, progress, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self.progress.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.progress.__exit__(*error)

    def _run(self) -> None:
        waiting = dict.fromkeys(range(len(self.cells)))
        while not self._over.wait(self.every_s):
            self._look(waiting)
        self._look(waiting, last=True)

    def _look(self, waiting: dict[int, None], *, last: bool = False) -> None:
        for index in list(waiting):
            result = self.cells[index].result(new=True)
            if is_given_up(result) and not last:  # by another sweep, and it may start here
                result = None
            started = result is not None or (self.cells[index].folder / LOCK).exists()
            if started and index not in self.progress.running:
                self.progress.start(index)
            if result is not None:
                del waiting[index]
                self.progress.end(index, result)
        self.progress.show_running([error_so_far(self.cells[index].folder) for index in self.progress.running])
