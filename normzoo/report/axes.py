"""Draw a panel: its curves or ranking, its title and legend, and a published curve in a corner."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normzoo.report.errors_axis import (
    Which,
    draw_curve,
    error_scale,
    mark_chance,
    say_nothing_ended,
    top_with_inset,
)
from normzoo.report.facets import said
from normzoo.report.panels import Curve, Panel, Reference, Scale
from normzoo.report.style import matplotlib_arguments, norm_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DOTTED = 12  # curves; with more of them single seeds are only a haze
_LONGEST = 56  # characters in a line of a name
_CHARACTERS = 15  # in an inch of a title or a legend


def has_dots(panel: Panel) -> bool:
    """Return whether single seeds are drawn."""
    return bool(panel.names) or len(panel.curves) <= MOST_DOTTED


def has_inset(panel: Panel) -> bool:
    """Return whether there is a published curve to show, and room for it."""
    return panel.inset is not None and top_with_inset(panel.curves) <= 100


def height(panel: Panel) -> float:
    """Return the height of the axes in inches."""
    if not panel.names:
        return 2.25
    lines = sum(_name(name).count("\n") + 1 for name in panel.names)
    return max(0.7, 0.14 * lines + 0.04 * len(panel.names) * min(len(panel.curves), 8))


def draw_panel(axes: Axes, panel: Panel, chance: float | None, title: str, width: float) -> float:
    """Draw a panel, with its title and legend above the axes; return their height in inches.

    Args:
        axes: Where to draw.
        panel: What to draw.
        chance: The error of guessing in percent, if known.
        title: The title.
        width: Inches that axes and labels can take.
    """
    which: Which = "x" if panel.names else "y"
    if panel.names:
        axes.set_xlabel("Validation error (%)")
        axes.set_yticks(range(len(panel.names)), [_name(name) for name in panel.names])
        axes.set_ylim(len(panel.names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        apart, together = 3.0, 26.0  # points between two and over all curves
    else:
        axes.set(xlabel=panel.x_label, ylabel="Validation error (%)")
        xs = sorted({x for curve in panel.curves for x in (*(x for x, _ in curve.points), *curve.lost)})
        _abscissa(axes, xs, panel.scale)
        apart, together = 4.0, 80.0 / len(xs)
    error_scale(axes, panel.curves, which)
    mark_chance(axes, panel.curves, chance, which)
    moving = [curve for curve in panel.curves if not curve.flat]
    apart = min(apart, together / max(len(moving), 1))
    lines = [
        draw_curve(axes, curve, which, seeds=has_dots(panel), aside=apart * (number - (len(moving) - 1) / 2))
        for number, curve in enumerate(moving)
    ]
    lines += [_draw_level(axes, curve) for curve in panel.curves if curve.flat]
    if not any(curve.points for curve in panel.curves):
        say_nothing_ended(axes, which)
    if panel.inset and has_inset(panel):
        _draw_inset(axes, panel.inset, panel.curves)
    return _draw_legend(axes, lines, panel, title, width)


def _draw_legend(axes: Axes, lines: Sequence[Any], panel: Panel, title: str, width: float) -> float:
    """Put title and legend above the axes, in as many columns as fit."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    labels = axes.yaxis.get_tightbbox()
    room = width - 0.35 - (labels.width / figure.dpi if labels else 0.0)
    curves = [*(curve for curve in panel.curves if not curve.flat), *(curve for curve in panel.curves if curve.flat)]
    named = len(curves) > 1 or not panel.names  # a ranking names on its left what it shows
    names = [_wrapped(curve.style.name, int((room - 0.5) * _CHARACTERS), 3) for curve in curves] if named else []
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0, "borderaxespad": 0.7}
    widest = axes.legend(lines[: len(names)], names, **place).get_window_extent().width / figure.dpi if names else room
    title = _wrapped(title, int(room * 13), 2)
    columns = max(1, int((room + 0.1) / (widest + 0.1)))
    looks: Any = {"ncols": columns, "columnspacing": 1.0, "title": title, "alignment": "left"}
    legend = axes.legend(lines[: len(names)], names, **place, **looks)
    return legend.get_window_extent().height / figure.dpi + 0.1


def _name(name: str) -> str:
    return _wrapped(name, _LONGEST, 2)


def _wrapped(text: str, characters: int, lines: int) -> str:
    """Break a text into at most so many lines of so many characters; shorten a longer one."""
    return "\n".join(textwrap.wrap(text, max(characters, 8), max_lines=lines, placeholder=" …")) or text


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


def _draw_level(axes: Axes, curve: Curve) -> Any:
    _, level = curve.points[-1]
    color = curve.style.color
    if level.std:
        axes.axhspan(level.mean - level.std, level.mean + level.std, color=color, alpha=0.13, lw=0, zorder=0)
    return axes.axhline(level.mean, color=color, ls=curve.style.dash, lw=1.1, zorder=2)


def _draw_inset(axes: Axes, reference: Reference, curves: Sequence[Curve]) -> None:
    """Draw a published curve in the upper right corner, with room made for it above the data."""
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
