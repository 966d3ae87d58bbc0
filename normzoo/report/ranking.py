"""Drawing errors by what is no number: a line each, from top to bottom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normzoo.report.errors_axis import draw_bars, error_scale, mark_chance, mark_lost, say_nothing_ended
from normzoo.report.legend import place_legend
from normzoo.report.panels import Panel
from normzoo.report.style import matplotlib_arguments
from normzoo.report.titles import put_title, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _CHARACTER, _SECOND_LINE = 0.165, 0.058, 0.12  # inches
_LONGEST = 56  # characters in a line of a name


def ranking_size(panel: Panel) -> tuple[float, float]:
    """The height the lines take, and the room their names take on the left, in inches."""
    curves = max(1, len(panel.curves))
    names = _names(panel)
    height = _ROW * (1 + 0.25 * (min(curves, 8) - 1)) * len(names) + _SECOND_LINE * sum("\n" in name for name in names)
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    return max(0.7, height), 0.2 + _CHARACTER * longest


def _names(panel: Panel) -> list[str]:
    return [wrapped(name, _LONGEST) for name in panel.names]


def draw_ranking(axes: Axes, panel: Panel, chance: float | None, above: float) -> None:
    """Draw a marker a curve on each line, with the spread over seeds; a cross on the right where cells were lost."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, box = figure.get_figwidth(), axes.get_position()
    put_title(axes, panel.title, left=(0.12 / width - box.x0) / box.width, pad=6 + above)
    axes.set_xlabel("Validation error (%)")
    error_scale(axes, panel.curves, "x")
    mark_chance(axes, panel.curves, chance, "x")
    axes.set_ylim(len(panel.names) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.names)), _names(panel))
    axes.tick_params(axis="y", length=0)
    apart = min(0.16, 0.7 / max(1, len(panel.curves)))
    handles = []
    for number, curve in enumerate(panel.curves):
        shift = (number - (len(panel.curves) - 1) / 2) * apart
        looks = {**matplotlib_arguments(curve.style), "linestyle": "none"}
        points = [(place + shift, stat) for place, stat in curve.points]
        handles.append(draw_bars(axes, points, looks, seeds=True, which="x"))
        mark_lost(axes, [place + shift for place in curve.lost], curve.style.color, "x")
    if not any(curve.points for curve in panel.curves):
        say_nothing_ended(axes, "x")
    place_legend(axes, handles, panel)
