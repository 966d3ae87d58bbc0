"""Drawing one panel on matplotlib axes: log2 abscissa, spread over seeds, a legend that covers no data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from normzoo.report.arms import Stat
from normzoo.report.literature import Reference
from normzoo.report.panels import Curve, Panel, Scale
from normzoo.report.style import GREY, matplotlib_arguments, norm_style
from normzoo.report.titles import put_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_FROM = 3.0  # ratio of the largest to the smallest mean from which the errors go on a logarithmic axis
_TICKS = [m * 10.0**e for e in range(-3, 2) for m in (1, 1.5, 2, 3, 5, 7)] + [100.0]
_MOST_SEED_DOTS = 20
MOST_DOTTED = 12  # curves; among more of them single seeds are only a haze


def draw_panel(axes: Axes, letter: str, panel: Panel, chance: float | None) -> None:
    """Draw the curves, set the scales, and put the legend where no point or line is."""
    from normzoo.report.legend import place_legend  # with NumPy, which comes with matplotlib

    put_title(axes, panel.title)
    if letter:
        corner: Any = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(letter, (0, 1), xytext=(-30, 6), fontsize=10, fontweight="bold", va="baseline", **corner)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel("Validation error (%)")
    xs = sorted({x for curve in panel.curves for x in (*(x for x, _ in curve.points), *curve.lost)})
    _abscissa(axes, xs, panel.scale)
    log = error_scale(axes, panel.curves)
    levels = mark_chance(axes, panel.curves, chance)
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
    _mark_lost(axes, panel.curves)
    if not any(curve.points for curve in panel.curves):
        say_nothing_ended(axes)
    inset = _inset(axes, panel.inset, panel.curves, log) if panel.inset else None
    place_legend(axes, handles, panel.curves, inset, levels)


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
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _shifted(xs: Sequence[float], scale: Scale, by: float) -> Callable[[float], float]:
    """Puts a curve aside by so many octaves, or as far where these have another length."""
    if scale == "linear":
        return lambda x: x + by * 0.12 * (xs[-1] - xs[0])
    if scale == "log10":
        return lambda x: x * (xs[-1] / xs[0]) ** (by * 0.2)
    return lambda x: x * 2**by


def error_limits(curves: Sequence[Curve]) -> tuple[bool, float, float]:
    """Whether the errors go on a logarithmic axis, as where they span much, and from where to where it goes.

    It holds every dot, and every bar but for a lower end far below all means.
    """
    stats = [s for curve in curves for _, s in curve.points]
    if not stats:
        return False, 0.0, 100.0
    values = [v for s in stats for v in (s.mean - (s.std or 0), s.mean + (s.std or 0), *s.values)]
    means = [s.mean for s in stats]
    high = max(values)
    if min(means) > 0 and max(means) / min(means) >= _LOG_FROM:
        dots = [v for s in stats for v in s.values if v > 0]
        low = min(*dots, max(min(values), min(means) / 2))
        return True, low / 1.15, min(high * 1.15, 110)
    margin = max(0.08 * (high - min(values)), 0.04 * high, 0.1)
    return False, max(min(values) - margin, 0), high + margin


def cut_off(curves: Sequence[Curve]) -> bool:
    """Whether the lower end of some bar lies beyond the axis."""
    _, low, _ = error_limits(curves)
    return any(s.mean - (s.std or 0) < low for curve in curves for _, s in curve.points)


def error_scale(axes: Axes, curves: Sequence[Curve], which: Literal["x", "y"] = "y") -> bool:
    """Choose the scale and the limits of the errors; gives whether it is logarithmic."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    limit, scale, axis = (getattr(axes, name) for name in (f"set_{which}lim", f"set_{which}scale", f"{which}axis"))
    log, low, high = error_limits(curves)
    if log:
        scale("log")
        axis.set_major_locator(FixedLocator(_TICKS))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    limit(low, high)
    return log


def mark_chance(
    axes: Axes, curves: Sequence[Curve], chance: float | None, which: Literal["x", "y"] = "y"
) -> list[float]:
    """Mark the error of guessing where errors come near it; elsewhere it would only stretch the axis."""
    highest = max((s.mean for curve in curves for _, s in curve.points), default=0.0)
    if chance is None or highest < 0.8 * chance:
        return []
    line: Any = {"color": GREY, "lw": 0.7, "ls": ":", "zorder": 0}
    text: Any = {"textcoords": "offset points", "ha": "right", "fontsize": 6, "color": GREY}
    if which == "x":
        axes.set_xlim(right=max(axes.get_xlim()[1], chance * 1.04))
        axes.axvline(chance, **line)
        axes.annotate("chance", (chance, 1), xytext=(-2, 2), xycoords=("data", "axes fraction"), **text)
    else:
        axes.set_ylim(top=max(axes.get_ylim()[1], chance * 1.08))
        axes.axhline(chance, **line)
        axes.annotate("chance", (1, chance), xytext=(-2, 1.5), xycoords=("axes fraction", "data"), **text)
    return [chance, chance * 1.03]


def draw_bars(
    axes: Axes,
    points: Sequence[tuple[float, Stat]],
    looks: Mapping[str, Any],
    *,
    seeds: bool,
    which: Literal["x", "y"] = "y",
) -> Any:
    """The means, a bar of ± std around each, and on it a dot for each seed; gives what a legend shows of them.

    A bar whose lower end lies beyond the axis, as one below zero does on a logarithmic one, ends at the axis without a
    cap. It takes the limits that the axis has, so these are to be set before.

    Args:
        points: Place along the other axis, and statistic.
        which: The axis of the errors.
    """
    least = min(axes.get_ylim() if which == "y" else axes.get_xlim())
    color = looks["color"]

    def plot(places: Sequence[float], errors: Sequence[float], **drawn: Any) -> Any:
        return axes.plot(*((places, errors) if which == "y" else (errors, places)), **drawn)[0]

    handle = plot([place for place, _ in points], [stat.mean for _, stat in points], **{**looks, "zorder": 4})
    bars = [(place, stat.mean - stat.std, stat.mean + stat.std) for place, stat in points if stat.std]
    for place, low, high in bars:
        plot([place, place], [max(low, least), high], color=color, lw=0.8, zorder=3, gid="bar")
    caps = [(place, end) for place, low, high in bars for end in (low, high) if end > least]
    if caps:
        mark = "_" if which == "y" else "|"
        plot(*zip(*caps, strict=True), ls="none", marker=mark, ms=3.6, mew=0.8, color=color, zorder=3)
    dots = [(place, value) for place, stat in points if stat.n > 1 for value in stat.values[:_MOST_SEED_DOTS]]
    if dots and seeds:
        plot(*zip(*dots, strict=True), ls="none", marker="o", ms=2.6, mew=0.6, mfc="white", mec=color, zorder=3.5)
    return handle


def say_nothing_ended(axes: Axes, which: Literal["x", "y"] = "y") -> None:
    """Of a panel of crosses alone: an axis of numbers beside them would look as if they were measured."""
    (axes.yaxis if which == "y" else axes.xaxis).set_ticks([])
    axes.text(
        0.5, 0.5, "no error: every cell diverged or died", transform=axes.transAxes, ha="center", color=GREY, fontsize=7
    )


def _draw_level(axes: Axes, curve: Curve) -> Any:
    _, level = curve.points[-1]
    arguments = {**matplotlib_arguments(curve.style), "marker": ""}
    handle = axes.axhline(level.mean, color=arguments["color"], ls=arguments["linestyle"], lw=1.1, zorder=2)
    if level.std:
        axes.axhspan(
            level.mean - level.std, level.mean + level.std, color=curve.style.color, alpha=0.13, lw=0, zorder=0
        )
    return handle


def _mark_lost(axes: Axes, curves: Sequence[Curve]) -> None:
    """A cross on the upper edge where cells diverged or died: they have no error to draw."""
    crossing = axes.get_xaxis_transform()
    for curve in curves:
        if curve.lost:
            axes.plot(
                curve.lost,
                [1.0] * len(curve.lost),
                transform=crossing,
                ls="none",
                marker="X",
                ms=6,
                mfc="white",
                mec=curve.style.color,
                clip_on=False,
                zorder=4,
            )


def _inset(axes: Axes, reference: Reference, curves: Sequence[Curve], log: bool) -> Axes:
    """A published curve in the upper right corner, with room made for it above the data."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, _ = axes.get_ylim()
    high = max((s.mean + (s.std or 0) for curve in curves for _, s in curve.points), default=low + 1)
    share = 0.52  # of the height, for the data
    axes.set_ylim(top=low * (high / low) ** (1 / share) if log else low + (high - low) / share)
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
    return inset
