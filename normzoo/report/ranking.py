"""Drawing errors by what is no number: a line each, from top to bottom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normzoo.report.axes import error_scale
from normzoo.report.panels import Panel
from normzoo.report.style import GREY, matplotlib_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _CHARACTER = 0.165, 0.058  # inches


def ranking_size(panel: Panel) -> tuple[float, float]:
    """The height the lines take, and the room their names take on the left, in inches."""
    curves = max(1, len(panel.curves))
    height = _ROW * (1 + 0.25 * (min(curves, 8) - 1)) * len(panel.names)
    return max(0.7, height), 0.2 + _CHARACTER * max(map(len, panel.names), default=0)


def draw_ranking(axes: Axes, panel: Panel, chance: float | None) -> None:
    """Draw a marker a curve on each line, with the spread over seeds; a cross on the right where cells were lost."""
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel("Validation error (%)")
    log = error_scale(axes, panel.curves, "x")
    highest = max((stat.mean for curve in panel.curves for _, stat in curve.points), default=0.0)
    if chance is not None and highest >= 0.8 * chance:
        axes.set_xlim(right=max(axes.get_xlim()[1], chance * 1.04))
        axes.axvline(chance, color=GREY, lw=0.7, ls=":", zorder=0)
        place: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate("chance", (chance, 1), xytext=(-2, 2), ha="right", fontsize=6, color=GREY, **place)
    axes.set_ylim(len(panel.names) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.names)), panel.names)
    axes.tick_params(axis="y", length=0)
    apart = min(0.16, 0.7 / max(1, len(panel.curves)))
    handles = []
    for number, curve in enumerate(panel.curves):
        shift = (number - (len(panel.curves) - 1) / 2) * apart
        drawn = {**matplotlib_arguments(curve.style), "linestyle": "none"}
        means = [stat.mean for _, stat in curve.points]
        ups = [stat.std or 0.0 for _, stat in curve.points]
        downs = [min(up, 0.9 * mean) if log else up for up, mean in zip(ups, means, strict=True)]
        ys = [place + shift for place, _ in curve.points]
        bars = axes.errorbar(means, ys, xerr=[downs, ups] if any(ups) else None, elinewidth=0.8, capsize=1.5, **drawn)
        handles.append(bars.lines[0])
        several = [(y, stat) for y, (_, stat) in zip(ys, curve.points, strict=True) if stat.n > 1]
        values = [(value, y) for y, stat in several for value in stat.values]
        if values:
            faint: Any = {"ls": "none", "marker": ".", "ms": 3.0, "mew": 0, "alpha": 0.5, "zorder": 1}
            axes.plot(*zip(*values, strict=True), color=curve.style.color, **faint)
        if curve.lost:
            edge: Any = {"ls": "none", "marker": "X", "ms": 5.5, "mfc": "white", "mec": curve.style.color}
            at = [place + shift for place in curve.lost]
            axes.plot([1.0] * len(at), at, transform=axes.get_yaxis_transform(), clip_on=False, zorder=4, **edge)
    if len(panel.curves) > 1:
        names = [curve.style.name for curve in panel.curves]
        axes.legend(handles, names, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=min(len(names), 4))
