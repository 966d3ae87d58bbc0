"""The progress of cells that somebody else runs, told from their folders."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from normzoo.sweep.local_launcher import told
from normzoo.sweep.outcome import given_up
from normzoo.sweep.plan import Cell
from normzoo.sweep.progress import Progress
from normzoo.training.callbacks import error_so_far


class Watch:
    """Shows, while it is used as a context, which cells run and what came of them.

    Args:
        cells: That are to run.
        every_s: Seconds between two looks at their folders.
    """

    def __init__(self, cells: Sequence[Cell], every_s: float = 1.0) -> None:
        self.cells, self.every_s = cells, every_s
        labels, costs = [cell.label for cell in cells], [cell.cost for cell in cells]
        self.progress = Progress(labels, costs, len(cells), norms=[cell.config.norm["name"] for cell in cells])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self.progress.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.progress.__exit__(kind, error, traceback)

    def _run(self) -> None:
        waiting = dict.fromkeys(range(len(self.cells)))
        while not self._over.wait(self.every_s):
            self._look(waiting)
        self._look(waiting, last=True)

    def _look(self, waiting: dict[int, None], *, last: bool = False) -> None:
        for index in list(waiting):
            result = self.cells[index].result(new=True)
            if given_up(result) and not last:  # by another sweep, and it may begin here
                result = None
            begun = result is not None or (self.cells[index].folder / ".claim").exists()
            if begun and index not in self.progress.running:
                self.progress.start(index)
            if result is not None:
                del waiting[index]
                self.progress.end(index, *told(result))
        self.progress.show_running([error_so_far(self.cells[index].folder) for index in self.progress.running])
