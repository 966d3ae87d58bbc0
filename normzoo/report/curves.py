"""Choose the panels of learning curves: validation error by epoch, mean and spread over seeds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from normzoo.report import provenance as describe
from normzoo.report.frame import Table
from normzoo.report.panels import Curve, Panel, line_style
from normzoo.report.series import ERROR, Point, Stat, batch_lines, normalization_lines, over_seeds_along
from normzoo.report.style import Style, told_apart
from normzoo.report.sweep_axes import grid_of, over_batches
from normzoo.report.sweep_panels import key_style
from normzoo.text import counted

CURVES = "curves"  # the name of the figure's files
_MOST_PANELS, _MOST_CURVES = 4, 16


def curve_panels(table: Table) -> list[Panel]:
    """Build a panel for up to four batch sizes (or values of what was varied), with a curve per line.

    A sweep whose cells recorded fewer than two epochs has none.
    """
    found = _by_batch(table) if over_batches(table) else _by_what_varied(table)
    panels = [(title, curves) for title, points in found.items() if (curves := _curves(points))]
    last = len(panels) - 1
    chosen = sorted({round(last * i / (_MOST_PANELS - 1)) for i in range(_MOST_PANELS)}) if panels else []
    left_out = f"{len(chosen)} of {len(panels)} panels shown" if len(chosen) < len(panels) else ""
    return [_panel(*panels[i], "" if i else left_out) for i in chosen]


def _by_batch(table: Table) -> dict[str, list[tuple[Style, Point]]]:
    """Return the points of the largest setting by their batch size or normalization batch."""
    setting = table.settings[0]
    lines = batch_lines(table, setting)
    name = "Batch size"
    if max((len(line.points) for line in lines), default=0) < 2:
        lines, name = normalization_lines(table, setting) or lines, "Normalization batch"
    label = f", {setting.label}" if setting.label else ""
    found: dict[int, list[tuple[Style, Point]]] = defaultdict(list)
    for line in lines:
        for point in line.points:
            found[point.x].append((line_style(line, lines), point))
    return {f"{name} {x}{label}": found[x] for x in sorted(found)}


def _by_what_varied(table: Table) -> dict[str, list[tuple[Style, Point]]]:
    grid = grid_of(table)
    styles = {key: key_style(table, grid, key, number) for number, key in enumerate(grid.points)}
    return {
        grid.across.label(x) if grid.across else "Learning curves": [
            (styles[key], points[x]) for key, points in grid.points.items() if x in points
        ]
        for x in grid.xs
    }


def _curves(points: Sequence[tuple[Style, Point]]) -> list[Curve]:
    """Return the curves that have several epochs."""
    curves = [Curve(style, _over_epochs(point), band=True) for style, point in points]
    curves = [curve for curve in curves if len(curve.points) > 1]
    styles = told_apart([curve.style for curve in curves])
    return [replace(curve, style=style) for curve, style in zip(curves, styles, strict=True)]


def _over_epochs(point: Point) -> list[tuple[float, Stat]]:
    """Summarize the error of each epoch over seeds, of cells that finished, or until they diverged."""
    records = [record for record in point.records if record.status in ("ok", "diverged")]
    return over_seeds_along((r.seed, row.get("epoch"), row.get(ERROR)) for r in records for row in r.curve)


def _panel(title: str, curves: Sequence[Curve], left_out: str) -> Panel:
    seeds = sorted({stat.n for curve in curves for _, stat in curve.points})
    shown = f"{_MOST_CURVES} of {len(curves)} curves shown" if len(curves) > _MOST_CURVES else ""
    note = describe.listing(filter(None, (shown, left_out)))
    count = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else counted(seeds[0], "seed")
    return Panel(title, "Epoch", curves[:_MOST_CURVES], f"{count} a point", note, scale="linear")
