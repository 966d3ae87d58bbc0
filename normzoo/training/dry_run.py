"""The plan of a sweep as a table, with the time its cells are expected to take."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from normzoo.results import CellResult, decisive, read_results
from normzoo.sweep.progress import clock
from normzoo.sweep.wrapped import wrapped
from normzoo.training.plan import BATCHES_TO_START, Cell, Plan, State

UNKNOWN = "unknown until the first cell has run"


def table(plan: Plan, n_jobs: int, folder: str) -> str:
    """What would be done with each cell of `plan` and how long it would take.

    Args:
        plan: Of the sweep.
        n_jobs: Cells that would run at once.
        folder: The sweep's, whose finished cells tell the times of those that are like them.
    """
    records = read_results(folder)[0] if Path(folder).is_dir() else []
    expected = Expected(records)
    seconds = {cell.folder.name: expected.seconds(cell) for cell in plan.todo}
    rows = [("cell", "state", "expected time")]
    for cell in plan.cells:
        state = f"{cell.state}: {cell.refused}" if cell.refused else str(cell.state)
        if cell.state is State.FAILED_BEFORE and cell.record is not None:
            state += f": {cell.record.status}"
        time = seconds.get(cell.folder.name)
        rows.append((cell.label, state, clock(time) if time is not None else "?" if cell.runs else ""))
    # A reason may be longer than any line, and takes no part in how wide its column is.
    widths = [max(len(row[0]) for row in rows), max((len(row[1]) for row in rows if ":" not in row[1]), default=0)]
    lines = [
        wrapped(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip(), hang=widths[0] + 2) for row in rows
    ]
    known = [time for time in seconds.values() if time is not None]
    if not plan.todo:
        total = "nothing to run"
    elif len(known) < len(seconds):
        total = f"expected time: {UNKNOWN}"
    else:
        total = f"expected time: {clock(max(sum(known) / n_jobs, max(known)))}"
    return "\n".join([*lines, "", wrapped(plan.line(n_jobs, folder)), f"{total}; a dry run, nothing was trained"])


def _but_the_seed(config: Mapping[str, Any]) -> Any:
    return {key: value for key, value in decisive(config).items() if key != "seed"}


class Expected:
    """How long a cell takes, told from finished cells: from those most like it that there are.

    Args:
        records: Of the sweep so far.
    """

    # From the same cell under another seed to anything that has run.
    LIKENESSES: tuple[Callable[[Mapping[str, Any]], Any], ...] = (
        _but_the_seed,
        lambda config: [_name(config, group) for group in ("norm", "model", "data")] + [config["trainer"]["devices"]],
        lambda config: [_name(config, group) for group in ("model", "data")] + [config["trainer"]["devices"]],
        lambda config: None,
    )

    def __init__(self, records: Iterable[CellResult]) -> None:
        self._sums: list[dict[str, tuple[float, float]]] = [{} for _ in self.LIKENESSES]
        for record in records:
            accumulated = record.config["trainer"].get("accumulate_grad_batches", 1)
            batches, wall = (record.metrics.get("steps") or 0) * accumulated, record.time.get("wall_s")
            if record.status != "ok" or wall is None:
                continue
            for sums, likeness in zip(self._sums, self.LIKENESSES, strict=True):
                key = repr(likeness(record.config))
                seconds, cost = sums.get(key, (0.0, 0.0))
                # What differs in nothing but the seed costs the same, whatever it is.
                sums[key] = seconds + wall, cost + (1.0 if likeness is _but_the_seed else batches + BATCHES_TO_START)

    def seconds(self, cell: Cell) -> float | None:
        """Of the cell; None where nothing has run yet."""
        for sums, likeness in zip(self._sums, self.LIKENESSES, strict=True):
            seconds, cost = sums.get(repr(likeness(cell.config)), (0.0, 0.0))
            if cost:
                return seconds / cost * (1.0 if likeness is _but_the_seed else cell.cost)
        return None


def _name(config: Mapping[str, Any], group: str) -> Any:
    return (config.get(group) or {}).get("name")
