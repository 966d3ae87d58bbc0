"""Show the plan of a sweep as a table, with the time its cells are expected to take."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

from normzoo.errors import UserError
from normzoo.identity import decisive
from normzoo.results import FILE_NAME, CellResult, read_result, read_results
from normzoo.sweep.cell import BATCHES_TO_START, Cell, State
from normzoo.sweep.plan import Plan
from normzoo.text import clock, counted, printable, wrapped
from normzoo.training.cell import describe

MOST_BESIDE = 2000  # records of other sweeps that are read, of the newest first
Likeness = Callable[[Mapping[str, Any]], Any]


def table(plan: Plan, n_jobs: int, folder: str) -> str:
    """Show what would be done with each cell, and how long it would take.

    Args:
        plan: Of the sweep.
        n_jobs: Cells that would run at once.
        folder: The sweep's. Times are estimated from its finished cells, or else from those of the sweeps beside it.
    """
    seconds = estimate(plan.to_run, read_results(folder)[0] if Path(folder).is_dir() else [])
    unlike = [cell for cell in plan.to_run if cell.folder.name not in seconds]
    if unlike:
        seconds |= estimate(unlike, _beside(Path(folder), unlike[0]), LIKENESSES[:-1])
    rows = [("cell", "state", "expected time")]
    for cell in plan.cells:
        state = str(cell.state)  # why it is refused has been printed with the plan
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
    known = list(seconds.values())
    beside = str(Path(folder).absolute().parent)
    if not plan.to_run:
        total = "nothing to run"
    elif not known:
        total = f"expected time: unknown until a cell like these has run, in this folder or beside it in {beside}"
    else:
        total = f"expected time: {clock(max(sum(known) / n_jobs, max(known)))}"
        if len(known) < len(plan.to_run):
            total += f", and that of {counted(len(plan.to_run) - len(known))} unlike any that has run"
        total += f", by other sweeps in {beside}" if unlike else ""
    return printable(
        "\n".join([*lines, "", wrapped(plan.line(n_jobs, folder)), wrapped(f"{total}; a dry run, nothing was trained")])
    )


def _beside(folder: Path, like: Cell) -> Iterator[CellResult]:
    """Read the records that this very processor left in the sweeps beside this one, the newest sweep first."""
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


def _all_but_the_seed(config: Mapping[str, Any]) -> Any:
    return {key: value for key, value in decisive(config).items() if key != "seed"}


def _same(*groups: str) -> Likeness:
    def likeness(config: Mapping[str, Any]) -> Any:
        names = [(config.get(group) or {}).get("name") for group in groups]
        return names, (config.get("data") or {}).get("image_size"), config["trainer"]["devices"]

    return likeness


# What makes cells alike, the closest first: from the same cell under another seed to anything that has run.
LIKENESSES: tuple[Likeness, ...] = (
    _all_but_the_seed,
    _same("norm", "model", "data"),
    _same("model", "data"),
    lambda config: None,
)


def estimate(
    cells: Sequence[Cell], records: Iterable[CellResult], likenesses: Sequence[Likeness] = LIKENESSES
) -> dict[str, float]:
    """Estimate the seconds of each cell, by its name, from the finished cells most like it, if there are any.

    Args:
        cells: To estimate.
        records: Of finished cells, and of others.
        likenesses: Those that count, the closest first.
    """
    sums: dict[tuple[Likeness, str], tuple[float, float]] = {}
    for record in filter(_is_timed, records):
        batches = (record.metrics.get("steps") or 0) * record.config["trainer"].get("accumulate_grad_batches", 1)
        for likeness in likenesses:
            key = likeness, _text(likeness(record.config))
            seconds, cost = sums.get(key, (0.0, 0.0))
            # Cells that differ in nothing but the seed cost the same, whatever it is.
            cost += 1.0 if likeness is _all_but_the_seed else batches + BATCHES_TO_START
            sums[key] = seconds + record.time["wall_s"], cost
    found: dict[str, float] = {}
    for cell in cells:
        for likeness in likenesses:
            if known := sums.get((likeness, _text(likeness(cell.config.plain)))):
                found[cell.folder.name] = known[0] / known[1] * (1.0 if likeness is _all_but_the_seed else cell.cost)
                break
    return found


def _text(likeness: Any) -> str:
    return json.dumps(likeness, sort_keys=True, default=str)


def _is_timed(record: CellResult) -> bool:
    """Whether it is a finished cell of the kind composed here; another program's records may hold anything."""
    groups = [record.config.get(group) or {} for group in ("norm", "model", "data")]
    trainer = record.config.get("trainer")
    if record.status != "ok" or not all(isinstance(one, Mapping) for one in (*groups, trainer)):
        return False
    accumulated = trainer.get("accumulate_grad_batches", 1)  # type: ignore[union-attr]
    return "devices" in trainer and _is_amount(record.time.get("wall_s")) and _is_amount(accumulated)  # type: ignore[operator]


def _is_amount(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and 0 <= value < 3e13
