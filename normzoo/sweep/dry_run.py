"""The plan of a sweep as a table, with the time its cells are expected to take."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

from normzoo.errors import UserError
from normzoo.results import FILE_NAME, CellResult, decisive, read_result, read_results
from normzoo.sweep.plan import BATCHES_TO_START, Cell, Plan, State
from normzoo.sweep.tally import clock
from normzoo.text import counted, printable, wrapped
from normzoo.training.cell import describe

MOST_BESIDE = 2000  # records of other sweeps that are read, of the newest first


def table(plan: Plan, n_jobs: int, folder: str) -> str:
    """What would be done with each cell of `plan` and how long it would take.

    Args:
        plan: Of the sweep.
        n_jobs: Cells that would run at once.
        folder: The sweep's, whose finished cells tell the times of those that are like them; or else those of the
            sweeps beside it.
    """
    expected = Expected(read_results(folder)[0] if Path(folder).is_dir() else [])
    seconds = {cell.folder.name: expected.seconds(cell) for cell in plan.to_run}
    unlike = [cell for cell in plan.to_run if seconds[cell.folder.name] is None]
    if unlike:
        others = Expected(_beside(Path(folder), unlike[0]), Expected.LIKENESSES[:-1])
        seconds |= {cell.folder.name: others.seconds(cell) for cell in unlike}
    rows = [("cell", "state", "expected time")]
    for cell in plan.cells:
        state = str(cell.state)  # why it is refused has been said when it was planned
        if cell.state is State.FAILED_BEFORE and cell.record is not None:
            state += f": {cell.record.status}"
        time = seconds.get(cell.folder.name)
        rows.append(
            (printable(cell.label, keep=""), state, clock(time) if time is not None else "?" if cell.runs else "")
        )
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [
        wrapped(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip(), hang=widths[0] + 2) for row in rows
    ]
    known = [time for time in seconds.values() if time is not None]
    beside = str(Path(folder).absolute().parent)
    if not plan.to_run:
        total = "nothing to run"
    elif not known:
        total = f"expected time: unknown until a cell like these has run, in this folder or beside it in {beside}"
    else:
        total = f"expected time: {clock(max(sum(known) / n_jobs, max(known)))}"
        if len(known) < len(seconds):
            total += f", and that of {counted(len(seconds) - len(known))} unlike any that has run"
        total += f", by other sweeps in {beside}" if unlike else ""
    return printable(
        "\n".join([*lines, "", wrapped(plan.line(n_jobs, folder)), wrapped(f"{total}; a dry run, nothing was trained")])
    )


def _but_the_seed(config: Mapping[str, Any]) -> Any:
    return {key: value for key, value in decisive(config).items() if key != "seed"}


def _beside(folder: Path, like: Cell) -> Iterator[CellResult]:
    """What cells left that ran on this very processor in the sweeps beside this one, the newest sweep first."""
    device = describe(like.config)["device"]
    own = folder.absolute()
    try:
        sweeps = sorted(
            (found for found in os.scandir(own.parent) if found.is_dir() and found.path != str(own)),
            key=lambda found: -found.stat().st_mtime,
        )
    except OSError:
        return
    # No deeper: the folder may be anybody's, with anything in it.
    files = (file for sweep in sweeps for file in sorted(Path(sweep.path).glob(f"*/{FILE_NAME}")))
    for file in islice(files, MOST_BESIDE):
        try:
            record = read_result(file)
        except UserError:
            continue
        if all(record.device.get(key) == device[key] for key in ("type", "name")):
            yield record


def _of_the_same(*groups: str) -> Callable[[Mapping[str, Any]], Any]:
    def likeness(config: Mapping[str, Any]) -> Any:
        size = (config.get("data") or {}).get("image_size")
        return [_name(config, group) for group in groups], size, config["trainer"]["devices"]

    return likeness


class Expected:
    """How long a cell takes, told from finished cells: from those most like it that there are.

    Args:
        records: Of the sweep so far, or of others.
        likenesses: Those that count, the closest first.
    """

    # From the same cell under another seed to anything that has run.
    LIKENESSES: tuple[Callable[[Mapping[str, Any]], Any], ...] = (
        _but_the_seed,
        _of_the_same("norm", "model", "data"),
        _of_the_same("model", "data"),
        lambda config: None,
    )

    def __init__(
        self,
        records: Iterable[CellResult],
        likenesses: Sequence[Callable[[Mapping[str, Any]], Any]] = LIKENESSES,
    ) -> None:
        self.likenesses = likenesses
        self._sums: list[dict[str, tuple[float, float]]] = [{} for _ in likenesses]
        for record in records:
            if not _is_a_cell(record.config):
                continue
            accumulated, wall = record.config["trainer"].get("accumulate_grad_batches", 1), record.time.get("wall_s")
            # Another program's records may hold anything.
            if record.status != "ok" or not _is_amount(wall) or not _is_amount(accumulated):
                continue
            batches = (record.metrics.get("steps") or 0) * accumulated
            for sums, likeness in zip(self._sums, self.likenesses, strict=True):
                key = _key(likeness(record.config))
                seconds, cost = sums.get(key, (0.0, 0.0))
                # What differs in nothing but the seed costs the same, whatever it is.
                sums[key] = seconds + wall, cost + (1.0 if likeness is _but_the_seed else batches + BATCHES_TO_START)

    def seconds(self, cell: Cell) -> float | None:
        """Of the cell; None where nothing has run yet."""
        for sums, likeness in zip(self._sums, self.likenesses, strict=True):
            seconds, cost = sums.get(_key(likeness(cell.config.plain)), (0.0, 0.0))
            if cost:
                return seconds / cost * (1.0 if likeness is _but_the_seed else cell.cost)
        return None


def _key(likeness: Any) -> str:
    return json.dumps(likeness, sort_keys=True, default=str)


def _is_amount(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and 0 <= value < 3e13


def _is_a_cell(config: Mapping[str, Any]) -> bool:
    """Whether it is of a cell as they are composed here; another program's records may hold anything."""
    groups = [config.get(group) or {} for group in ("norm", "model", "data")]
    return all(isinstance(one, Mapping) for one in (*groups, config.get("trainer"))) and "devices" in config["trainer"]


def _name(config: Mapping[str, Any], group: str) -> Any:
    return (config.get(group) or {}).get("name")
