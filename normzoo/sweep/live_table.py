"""The live table of a sweep on a terminal, drawn by rich."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Self, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from normzoo.sweep.tally import Standing, clock
from normzoo.text import counted

# Lines of the table besides the rows of its three parts: the bar and its figures, three heads and three blank lines.
FIXED_LINES = 9
WIDE = 72  # characters from which there is room for the setting of a norm's best error


class LiveTable:
    """A progress bar, the cells that run, the best error of each norm, and the failures, redrawn in place.

    What is printed or logged meanwhile appears above it.

    Args:
        progress: What is shown.
        console: Where.
    """

    def __init__(self, progress: Standing, console: Console) -> None:
        self.progress, self.console = progress, console
        # Redrawn when something has happened, and each second by who runs the cells: no thread, and no flicker.
        self.live = Live(
            get_renderable=lambda: self,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # into a file it goes on going there
        )
        self._moved: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []

    @classmethod
    def on(cls, progress: Standing, stream: TextIO) -> Self | None:
        """The table of `progress` on `stream`; None on a terminal that cannot move its cursor."""
        console = Console(file=stream, highlight=False)
        return None if console.is_dumb_terminal or not console.is_terminal else cls(progress, console)

    def open(self) -> None:
        """Draw the table, and let everything that is printed from now on appear above it."""
        before = sys.stdout, sys.stderr
        self.live.start()
        self._moved = _redirect_logs({before[0]: sys.stdout, before[1]: sys.stderr})

    def print(self, line: str) -> None:
        """Put a line above the table."""
        self.console.print(Text(line), soft_wrap=True)

    def redraw(self) -> None:
        """Draw the table as things are."""
        self.live.refresh()

    def close(self) -> None:
        """Take the table away; the lines above it stay, and the streams are as before."""
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved = []
        self.live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = max(3, options.size.height - FIXED_LINES)
        failures = self.progress.failures[-max(1, rows // 4) :]
        running = max(1, (rows - len(failures)) // 2)
        yield from self._bar(options.max_width)
        yield from self._running(running)
        yield from self._best(
            max(1, rows - len(failures) - min(running, len(self.progress.running))), options.max_width
        )
        yield from self._failures(failures)

    def _bar(self, width: int) -> Iterator[RenderableType]:
        progress = self.progress
        total = sum(progress.costs)
        done = sum(progress.costs[i] for i in progress.done)
        figures = f"{len(progress.done)}/{counted(len(progress.labels))}  {progress.time_left()} left"
        figures += f"  {clock(time.monotonic() - progress.started)} gone"
        bar = ProgressBar(total=total or 1.0, completed=done, complete_style="cyan", finished_style="cyan")
        beside = width >= len(figures) + 20
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_row(bar, *([Text(figures)] if beside else []))
        if not beside:
            grid.add_row(Text(figures))
        yield grid

    def _running(self, most: int) -> Iterator[RenderableType]:
        progress = self.progress
        if not progress.running:
            return
        table = _table("running", "error so far", "time")
        now = time.monotonic()
        # Those that have run longest are what one wonders about.
        for index, since in list(progress.running.items())[:most]:
            table.add_row(Text(progress.labels[index]), progress.so_far.get(index, "-"), clock(now - since))
        yield Text()
        yield table
        yield from _more(len(progress.running) - most)

    def _best(self, most: int, width: int) -> Iterator[RenderableType]:
        norms = list(self.progress.best())
        if not any(best.error is not None for best in norms):
            return
        wide = width >= WIDE
        table = _table("norm", "cells", "best error", *(["seeds", "at"] if wide else []))
        if wide:
            table.columns[-1].justify = "left"
            table.columns[-1].ratio = 2
        for best in norms[:most]:
            where: list[str | Text] = [str(best.seeds or ""), Text(best.setting)] if wide else []
            error = "-" if best.error is None else f"{best.error:.2f} %"
            table.add_row(Text(best.norm), f"{best.done}/{best.cells}", error, *where)
        yield Text()
        yield table
        yield from _more(len(norms) - most)

    def _failures(self, shown: list[tuple[str, str]]) -> Iterator[RenderableType]:
        count = len(self.progress.failures)
        if not count:
            return
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in range(2):
            grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for label, cause in shown:
            grid.add_row(Text(label), Text(cause))
        yield Text()
        yield Text(f"failed or diverged: {count}", style="bold red", no_wrap=True)
        yield grid
        yield from _more(count - len(shown))


def _table(first: str, *others: str) -> Table:
    """Columns without lines between them: the first takes what room there is, and is cut where there is none."""
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(first, ratio=3, no_wrap=True, overflow="ellipsis")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
    return table


def _more(count: int) -> Iterator[RenderableType]:
    if count > 0:
        yield Text(f"and {count} more", style="dim")


def _redirect_logs(exchanged: Mapping[TextIO, TextIO]) -> list[tuple["logging.StreamHandler[TextIO]", TextIO]]:
    """Let the log's handlers write where everything else writes now: above the table.

    They had taken hold of the standard streams before these were exchanged.

    Args:
        exchanged: Each stream and what stands in its place.

    Returns:
        The handlers with what they wrote to.
    """
    moved = []
    loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if (
            isinstance(handler, logging.StreamHandler)
            and exchanged.get(handler.stream, handler.stream) is not handler.stream
        ):
            moved.append((handler, handler.stream))
            handler.setStream(exchanged[handler.stream])
    return moved
