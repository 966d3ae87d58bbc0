"""Write tables as text: CSV, rows for the summary, plain columns for a terminal."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from normzoo.report.checks import show
from normzoo.report.facets import ABSENT, said
from normzoo.report.frame import CONFIG, Table
from normzoo.report.provenance import timed
from normzoo.report.series import Line, Point
from normzoo.report.sweep_axes import Grid
from normzoo.text import counted, csv_cell, printable

_COLUMNS = (
    "norm",
    "batch_size_per_device",
    "normalization_batch",
    "placement",
    "model",
    "data",
    "image_size",
    "devices",
    "seed",
    "status",
    "reason",
)
_METRICS = ("val_error_running", "val_error_population", "val_error_batch", "train_error")
_NAMED = {"batch_size_per_device": "batch"}  # columns of the cells that have a longer name here
# Config entries that the fixed columns already show.
_SHOWN = frozenset(
    {
        *("seed", "batch_size_per_device", "norm.name", "placement.name", "model.name", "data.name", "data.image_size"),
        *("optimizer.name", "trainer.max_epochs"),
    }
)


def rows_csv(table: Table, root: str) -> str:
    """Write a line per cell: its settings, its results, and every config entry in which the cells differ."""
    cells, records = table.cells, list(table.cells.record)

    def entry(key: str) -> list[Any]:
        found = cells.get(CONFIG + key, [ABSENT] * len(cells))
        return [None if value == ABSENT else value for value in found]

    rates = zip(records, *map(entry, ("optimizer.lr", "optimizer.base_lr", "optimizer.lr_rule")), strict=True)
    optimizers = zip(entry("optimizer.name"), entry("optimizer._target_"), strict=True)
    columns: dict[str, Sequence[Any]] = {
        **{name: cells[_NAMED.get(name, name)].astype(object) for name in _COLUMNS},
        # As configured: a record has 0 for a seed that is not a whole number.
        "seed": entry("seed") if f"{CONFIG}seed" in cells else cells.seed,
        **{name: [record.metrics.get(name) for record in records] for name in _METRICS},
    }
    last = {
        "values_per_statistic_min": cells.values_min,
        "seconds": [timed(record, "wall_s") for record in records],
        "ms_per_step": [timed(record, "ms_per_step") for record in records],
        "optimizer": [name or target for name, target in optimizers],
        "lr": [_rate(record.metrics.get("lr") or lr, base, rule) for record, lr, base, rule in rates],
        "epochs": entry("trainer.max_epochs"),
        "cell": [record.cell for record in records],
        "folder": [printable(_relative(record.folder, root), keep="") for record in records],
    }
    for name in sorted({name for record in records for name in record.metrics} - {*columns, *last}):
        columns[name] = [record.metrics.get(name) for record in records]
    columns |= last
    for key in table.differing:
        if key not in _SHOWN:
            columns[f"config.{key}" if key in columns else key] = entry(key)
    shown = {csv_cell(name): list(map(csv_cell, values)) for name, values in columns.items()}
    return pd.DataFrame(shown, dtype=object).to_csv(index=False, lineterminator="\n")


def _rate(lr: Any, base: Any, rule: Any) -> Any:
    """Return the learning rate that a cell began with, as far as it is known."""
    return base if lr is None and rule in (None, "none") else lr


def _relative(folder: Path | None, root: str) -> str:
    """Return the cell's folder relative to the sweep, so that the table stays true when the sweep is moved."""
    return str(folder or "").removeprefix(root).lstrip("/\\") or "."


def line_grid(lines: Sequence[Line], heads: Sequence[str], usual_n: int) -> tuple[list[str], list[list[str]]]:
    """Write lines as head and body of a table: a row per line, a column per x."""
    columns = sorted({point.x for line in lines for point in line.points})
    body = []
    for line, head in zip(lines, heads, strict=True):
        points = {point.x: point for point in line.points}
        body.append([head, *(cell_text(points.get(x), usual_n) for x in columns)])
    return [str(x) for x in columns], body


def grid_table(grid: Grid, usual_n: int, name: Callable[[str], str] = str) -> tuple[list[str], list[list[str]]]:
    """Write errors by what was varied as head and body of a table; `name` formats the names of lines."""
    corner = ", ".join(axis.name for axis in grid.lines)
    xs = grid.xs
    heads = ["error"] if grid.across is None else [said(x) for x in xs]
    body = [
        [name(grid.label(key)), *(cell_text(points.get(x), usual_n) for x in xs)] for key, points in grid.points.items()
    ]
    return [corner if grid.across is None else f"{corner} \\ {grid.across.name}", *heads], body


def cell_text(point: Point | None, usual_n: int) -> str:
    """Write mean ± std, with the number of seeds if unusual, or what became of the cells instead."""
    if point is None:
        return "–"
    lost = ", ".join(f"{count} {status}" for status, count in point.missing)
    if point.stat is None:
        return lost if len(point.missing) > 1 else (point.missing[0][0] if point.missing else "–")
    notes = [counted(point.stat.n, "seed")] if point.stat.n != usual_n else []
    notes += [lost] if lost else []
    return show(point.stat) + (f" ({', '.join(notes)})" if notes else "")


def plain_table(head: Sequence[str], body: Sequence[Sequence[str]], width: int) -> str:
    """Align columns within `width` characters: further columns follow in a block below."""
    rows = [list(head), *[list(row) for row in body]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    blocks: list[list[int]] = [[]]
    used = widths[0]
    for i in range(1, len(head)):
        if blocks[-1] and used + 2 + widths[i] > width:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(i)
        used += 2 + widths[i]
    return "\n\n".join(
        "\n".join(row[0].ljust(widths[0]) + "".join("  " + row[i].rjust(widths[i]) for i in block) for row in rows)
        for block in blocks
    )
