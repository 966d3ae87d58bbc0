"""The progress of a sweep as a table on a terminal, drawn by rich."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from normzoo.sweep.cell import Cell
from normzoo.sweep.progress import Progress
from normzoo.text import clock, counted

# Lines of the table besides the rows of its three parts: the bar and its figures, three heads and three blank lines.
FIXED_LINES = 9


def progress_of(cells: Sequence[Cell], n_jobs: int) -> Progress:
    """Return what shows the progress of these cells: a live table on a terminal, lines anywhere else."""
    labels, costs = [cell.label for cell in cells], [cell.cost for cell in cells]
    kind = LiveTable if can_draw(sys.stdout) else Progress
    return kind(labels, costs, n_jobs, [cell.config.norm["name"] for cell in cells])


def can_draw(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can move its cursor."""
    console = Console(file=stream)
    # rich alone takes a file for a terminal if FORCE_COLOR is set.
    return stream.isatty() and console.is_terminal and not console.is_dumb_terminal


class LiveTable(Progress):
    """A progress bar, the cells that run, the best error of each norm, and the failures, redrawn in place.

    What is printed or logged meanwhile appears above it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.console = Console(file=self.stream, highlight=False)
        # Redrawn when something has happened, and each second by whoever runs the cells: no thread, and no flicker.
        self.live = Live(
            get_renderable=lambda: self,
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # a file keeps what goes there
        )
        self._moved: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []

    def __enter__(self) -> Self:
        before = sys.stdout, sys.stderr
        self.live.start()
        self._moved = _redirect_logs({before[0]: sys.stdout, before[1]: sys.stderr})
        return self

    def __exit__(self, *_: object) -> None:
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved = []
        self.live.stop()

    def print(self, line: str) -> None:
        """Print a line above the table."""
        self.console.print(Text(line), soft_wrap=True)

    def redraw(self) -> None:
        """Draw the table anew."""
        if self.live.is_started:
            self.live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = max(3, options.size.height - FIXED_LINES)
        failed = min(len(self.failures), max(1, rows // 4))
        running = min(len(self.running), max(1, (rows - failed) // 2))
        done = sum(self.costs[index] for index in self.done)
        figures = f"{len(self.done)}/{counted(len(self.labels))}  {self.time_left()} left"
        figures += f"  {clock(time.monotonic() - self.started)} gone"
        grid = _grid(1)
        grid.add_row(ProgressBar(sum(self.costs) or 1.0, done, complete_style="cyan", finished_style="cyan"))
        grid.add_row(Text(figures))
        yield grid
        yield from self._running(running)
        yield from self._best(max(1, rows - failed - running))
        yield from self._failures(failed)

    def _running(self, most: int) -> Iterator[RenderableType]:
        if not self.running:
            return
        table = _table("running", "error so far", "time")
        # Those that have run longest are of most interest.
        for index, since in list(self.running.items())[:most]:
            time_gone = clock(time.monotonic() - since)
            table.add_row(Text(self.labels[index]), self.so_far.get(index, "-"), time_gone)
        yield from ("", table, *_more(len(self.running) - most))

    def _best(self, most: int) -> Iterator[RenderableType]:
        norms = self.best()
        if not norms or norms[0].error is None:
            return
        table = _table("norm", "cells", "best error", "seeds", "at")
        table.columns[-1].justify, table.columns[-1].ratio = "left", 2
        for best in norms[:most]:
            error = "-" if best.error is None else f"{best.error:.2f} %"
            done = f"{best.done}/{best.cells}"
            table.add_row(Text(best.norm), done, error, str(best.seeds or ""), Text(best.setting))
        yield from ("", table, *_more(len(norms) - most))

    def _failures(self, most: int) -> Iterator[RenderableType]:
        if not self.failures:
            return
        grid = _grid(2)
        for label, cause in self.failures[-most:]:
            grid.add_row(Text(label), Text(cause))
        count = len(self.failures)
        title = Text(f"failed or diverged: {count}", style="bold red", no_wrap=True, overflow="ellipsis")
        yield from ("", title, grid, *_more(count - most))


def _grid(columns: int) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    for _ in range(columns):
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    return grid


def _table(first: str, *others: str) -> Table:
    """A table without lines, whose first column takes the room there is and is cut where there is none."""
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(first, ratio=3, no_wrap=True, overflow="ellipsis")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
    return table


def _more(count: int) -> list[RenderableType]:
    return [Text(f"and {count} more", style="dim")] if count > 0 else []


def _redirect_logs(replaced: Mapping[TextIO, TextIO]) -> list[tuple["logging.StreamHandler[TextIO]", TextIO]]:
    """Let log handlers that hold a standard stream write to what has replaced it, so that it appears above the table.

    Args:
        replaced: Each stream and its replacement.

    Returns:
        The handlers, and the streams they had.
    """
    moved = []
    loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if isinstance(handler, logging.StreamHandler):
            stream = handler.stream
            if replaced.get(stream, stream) is not stream:
                moved.append((handler, stream))
                handler.setStream(replaced[stream])
    return moved
