"""Build the panel of a sweep that is not over batch sizes: errors along a number, or a ranking."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from normzoo.report import provenance as describe
from normzoo.report.frame import Table
from normzoo.report.panels import Curve, Panel, Scale
from normzoo.report.series import Point
from normzoo.report.style import Style, norm_style, numbered_style
from normzoo.report.sweep_axes import Grid, Key, grid_of, is_number

_MOST_CURVES, _MOST_RANKED = 24, 60


def varied_panels(table: Table) -> list[Panel]:
    """Return one panel, if it has anything to show."""
    grid = grid_of(table)
    xs = grid.xs
    along = grid.across is not None and len(xs) > 1 and is_number(xs) and _apart(xs)
    panel = _along(table, grid, xs) if along else _ranking(table, grid)
    shown = [curve for curve in panel.curves if curve.points or curve.lost]
    return [replace(panel, curves=shown)] if shown else []


def _along(table: Table, grid: Grid, xs: Sequence[Any]) -> Panel:
    assert grid.across is not None
    curves = []
    for number, (key, points) in enumerate(list(grid.points.items())[:_MOST_CURVES]):
        style = key_style(table, grid, key, number)
        measured = [(x, points[x].stat) for x in xs if x in points]
        lost = [x for x in xs if x in points and points[x].lost]
        curves.append(Curve(style, [(x, stat) for x, stat in measured if stat is not None], lost))
    left_out = len(grid.points) - _MOST_CURVES
    note = _fixed(table) + (f"; {_MOST_CURVES} of {len(grid.points)} lines shown" if left_out > 0 else "")
    name = grid.across.name
    return Panel(f"By {name}", name, curves, _seeds(table), note, scale=_scale(xs))


def _ranking(table: Table, grid: Grid) -> Panel:
    keys = list(grid.points)[:_MOST_RANKED]
    curves = []
    for number, x in enumerate(grid.xs):
        points = [(place, grid.points[key][x]) for place, key in enumerate(keys) if x in grid.points[key]]
        name = grid.across.label(x) if grid.across else ""
        measured = [(place, point.stat) for place, point in points if point.stat is not None]
        curves.append(Curve(numbered_style(number, name), measured, [place for place, p in points if p.lost]))
    names = [grid.label(key) + _refused(grid.points[key]) for key in keys]
    left_out = len(grid.points) - len(keys)
    note = _fixed(table) + (f"; {len(keys)} of {len(grid.points)} shown" if left_out else "")
    title = "By " + " and ".join(grid.names)
    return Panel(title, "", curves, _seeds(table), note, names=names)


def key_style(table: Table, grid: Grid, key: Key, number: int) -> Style:
    """Return the style of a line: its norm's, or one by number if lines differ in more."""
    if [axis.name for axis in grid.lines] == ["norm"]:
        norm = table.cells.norm[table.cells.variant == key[0]].iloc[0]
        return norm_style(norm, key[0])
    return numbered_style(number, grid.label(key))


def _scale(xs: Sequence[float]) -> Scale:
    if min(xs) <= 0:
        return "linear"
    if all(isinstance(x, int) and math.log2(x).is_integer() for x in xs):
        return "log2"
    return "log10" if max(xs) / min(xs) >= 8 else "linear"


def _apart(xs: Sequence[float]) -> bool:
    """Return whether these are far enough apart for an axis."""
    places = xs if _scale(xs) == "linear" else [math.log(x) for x in xs]
    return min(b - a for a, b in pairwise(places)) > 0.015 * (places[-1] - places[0])


def _refused(points: Mapping[Any, Point]) -> str:
    """Mark in its name a line that cannot be in the picture."""
    refused = all(point.count("refused") == len(point.rows) for point in points.values())
    return " (refused)" if refused else ""


def _seeds(table: Table) -> str:
    ended = table.cells[table.cells.status == "ok"]
    return describe.seeds(table.cells if ended.empty else ended)


def _fixed(table: Table) -> str:
    batches = sorted(table.cells.batch.dropna().unique())
    return f"batch size per device {', '.join(map(str, batches))}" if batches else "cells of one kind"
