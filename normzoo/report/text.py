"""Tables as text: markdown for the summary, plain columns for a terminal."""

import csv
import io
from collections.abc import Callable, Sequence

from normzoo.report.checks import show
from normzoo.report.facets import said
from normzoo.report.rows import Row, Table
from normzoo.report.series import Line, Point
from normzoo.report.sweep_axes import Grid
from normzoo.text import csv_cell, printable

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
_LAST = ("values_per_statistic_min", "seconds", "ms_per_step", "optimizer", "lr", "epochs", "cell", "folder")
# Config entries that the fixed columns already show.
_SHOWN = frozenset(
    {
        *("seed", "batch_size_per_device", "norm.name", "placement.name", "model.name", "data.name", "data.image_size"),
        *("optimizer.name", "trainer.max_epochs"),
    }
)


def rows_csv(table: Table, root: str) -> str:
    """One line a cell: what it was, what came of it, and every config entry in which the cells differ."""
    found = sorted({name for row in table.rows for name in row.result.metrics} - set(_METRICS))
    fixed = {*_COLUMNS, *_METRICS, *_LAST}
    metrics = [*_METRICS, *(name for name in found if name not in fixed)]
    extra = [key for key in table.differing if key not in _SHOWN]
    stream = io.StringIO()
    rows: list[list[object]] = [
        [*_COLUMNS, *metrics, *_LAST, *(f"config.{key}" if key in fixed else key for key in extra)]
    ]
    for row in table.rows:
        values = row.result.metrics
        rows.append(
            [
                *_facts(row),
                *("" if values.get(name) is None else values[name] for name in metrics),
                row.values_min,
                row.time("wall_s"),
                row.time("ms_per_step"),
                *_optimizer(row),
                row.result.cell,
                printable(_relative(row, root), keep=""),
                *(row.flat.get(key) for key in extra),
            ]
        )
    csv.writer(stream, lineterminator="\n").writerows([map(csv_cell, row) for row in rows])
    return stream.getvalue()


def _optimizer(row: Row) -> list[object]:
    """The optimizer, the learning rate that it began with, as far as it is known, and the epochs."""
    flat = row.flat
    lr = row.result.metrics.get("lr") or flat.get("optimizer.lr")
    if lr is None and flat.get("optimizer.lr_rule") in (None, "none"):
        lr = flat.get("optimizer.base_lr")
    return [flat.get("optimizer.name") or flat.get("optimizer._target_"), lr, flat.get("trainer.max_epochs")]


def _facts(row: Row) -> list[object]:
    return [
        row.norm,
        row.batch,
        row.normalization_batch,
        row.placement,
        row.model,
        row.data,
        row.image_size,
        row.devices,
        row.flat.get("seed", row.seed),  # as it was asked for: a record has 0 for one that is no whole number
        row.status,
        row.reason,
    ]


def _relative(row: Row, root: str) -> str:
    """The cell's folder as seen from the sweep, so that the table stays true when the sweep is moved."""
    folder = str(row.result.folder or "")
    return folder.removeprefix(root).lstrip("/\\") or "."


def line_grid(lines: Sequence[Line], heads: Sequence[str], usual_n: int) -> tuple[list[str], list[list[str]]]:
    """Lines as a table: a row a line, a column an x."""
    columns = sorted({point.x for line in lines for point in line.points})
    body = []
    for line, head in zip(lines, heads, strict=True):
        points = {point.x: point for point in line.points}
        body.append([head, *(cell_text(points.get(x), usual_n) for x in columns)])
    return [str(x) for x in columns], body


def grid_table(grid: Grid, usual_n: int, name: Callable[[str], str] = str) -> tuple[list[str], list[list[str]]]:
    """Errors by whatever was varied, as head and body of a table; `name` is how names of lines are written."""
    corner = ", ".join(axis.name for axis in grid.lines)
    xs = grid.xs
    heads = ["error"] if grid.across is None else [said(x) for x in xs]
    body = [
        [name(grid.label(key)), *(cell_text(points.get(x), usual_n) for x in xs)] for key, points in grid.points.items()
    ]
    return [corner if grid.across is None else f"{corner} \\ {grid.across.name}", *heads], body


def cell_text(point: Point | None, usual_n: int) -> str:
    """Mean ± std, with the number of seeds where it is not the usual one, or what became of the cells instead."""
    if point is None:
        return "–"
    lost = ", ".join(f"{count} {status}" for status, count in point.missing)
    if point.stat is None:
        return lost if len(point.missing) > 1 else (point.missing[0][0] if point.missing else "–")
    notes = [f"n = {point.stat.n}"] if point.stat.n != usual_n else []
    notes += [lost] if lost else []
    return show(point.stat) + (f" ({', '.join(notes)})" if notes else "")


def plain_table(head: Sequence[str], body: Sequence[Sequence[str]], width: int) -> str:
    """Aligned columns that keep within `width` characters: further columns follow in a block below."""
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
