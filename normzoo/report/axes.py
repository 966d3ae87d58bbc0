"""Drawing one panel of curves: the abscissa, each curve, a published one in a corner, a legend that covers no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from normzoo.report.errors_axis import (
    draw_bars,
    error_scale,
    mark_chance,
    mark_lost,
    say_nothing_ended,
    top_with_inset,
)
from normzoo.report.facets import said
from normzoo.report.legend import place_legend
from normzoo.report.literature import Reference
from normzoo.report.panels import Curve, Panel, Scale
from normzoo.report.style import matplotlib_arguments, norm_style
from normzoo.report.titles import put_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DOTTED = 12  # curves; among more of them single seeds are only a haze


def draw_panel(axes: Axes, letter: str, panel: Panel, chance: float | None, above: float) -> None:
    """Draw the curves, set the scales, and put the legend above them, in so many points below the title."""
    put_title(axes, panel.title, pad=6 + above)
    if letter:
        corner: Any = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(letter, (0, 1), xytext=(-30, 6 + above), fontsize=10, fontweight="bold", va="baseline", **corner)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel("Validation error (%)")
    xs = sorted({x for curve in panel.curves for x in (*(x for x, _ in curve.points), *curve.lost)})
    _abscissa(axes, xs, panel.scale)
    error_scale(axes, panel.curves)
    mark_chance(axes, panel.curves, chance)
    moving = [curve for curve in panel.curves if not curve.flat]
    apart = min(0.07, 0.4 / max(len(moving), 1))
    handles = []
    for curve in panel.curves:
        if curve.flat:
            handles.append(_draw_level(axes, curve))
        else:
            # A little apart, so that error bars at one x do not hide each other.
            place = moving.index(curve) - (len(moving) - 1) / 2
            shifted = _shifted(xs, panel.scale, apart * place)
            points = [(shifted(x), s) for x, s in curve.points]
            dotted = len(panel.curves) <= MOST_DOTTED
            handles.append(draw_bars(axes, points, matplotlib_arguments(curve.style), seeds=dotted))
    for curve in panel.curves:
        mark_lost(axes, curve.lost, curve.style.color)
    if not any(curve.points for curve in panel.curves):
        say_nothing_ended(axes)
    if panel.inset and top_with_inset(panel.curves) <= 100:
        _inset(axes, panel.inset, panel.curves)
    place_legend(axes, handles, panel)


def _abscissa(axes: Axes, xs: Sequence[float], scale: Scale) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks = list(xs)
    while len(ticks) > 9:
        ticks = ticks[::2]
    if scale == "linear":
        room = 0.06 * (xs[-1] - xs[0]) or 0.5
        axes.set_xlim(xs[0] - room, xs[-1] + room)
    else:
        room = 2**0.45 if scale == "log2" else (xs[-1] / xs[0]) ** 0.06 * 1.05
        axes.set_xscale("log", base=2 if scale == "log2" else 10)
        axes.set_xlim(xs[0] / room, xs[-1] * room)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: said(float(x))))


def _shifted(xs: Sequence[float], scale: Scale, by: float) -> Callable[[float], float]:
    """Puts a curve aside by so many octaves, or as far where these have another length."""
    if scale == "linear":
        return lambda x: x + by * 0.12 * (xs[-1] - xs[0])
    if scale == "log10":
        return lambda x: x * (xs[-1] / xs[0]) ** (by * 0.2)
    return lambda x: x * 2**by


def _draw_level(axes: Axes, curve: Curve) -> Any:
    _, level = curve.points[-1]
    arguments = {**matplotlib_arguments(curve.style), "marker": ""}
    handle = axes.axhline(level.mean, color=arguments["color"], ls=arguments["linestyle"], lw=1.1, zorder=2)
    if level.std:
        axes.axhspan(
            level.mean - level.std, level.mean + level.std, color=curve.style.color, alpha=0.13, lw=0, zorder=0
        )
    return handle


def _inset(axes: Axes, reference: Reference, curves: Sequence[Curve]) -> None:
    """A published curve in the upper right corner, with room made for it above the data."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    axes.set_ylim(top=top_with_inset(curves))
    inset = axes.inset_axes((0.6, 0.635, 0.395, 0.28))
    for norm, errors in reference.errors.items():
        style = norm_style(norm)
        drawn = {**matplotlib_arguments(style), "lw": 0.9, "ms": 2.4, "mew": 0.5}
        inset.plot(list(errors), list(errors.values()), **drawn)
        first = next(iter(errors.items()))
        place: Any = {"textcoords": "offset points", "fontsize": 5.6, "color": style.color}
        inset.annotate(style.name, first, xytext=(5, -3) if norm == "batch_norm" else (-2, -8), **place)
    bottom, top = inset.get_ylim()
    inset.set_ylim(bottom - 0.28 * (top - bottom), top + 0.03 * (top - bottom))  # room for the lower name
    inset.set_title(reference.short, fontsize=6, pad=2)
    inset.set_xscale("log", base=2)
    inset.xaxis.set_major_locator(FixedLocator(sorted({x for row in reference.errors.values() for x in row})))
    inset.xaxis.set_minor_locator(NullLocator())
    inset.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    inset.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 5, 10]))
    inset.tick_params(labelsize=5.6, pad=1.5, length=1.8)
    inset.patch.set_alpha(0.0)
