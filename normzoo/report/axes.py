"""Drawing one panel on matplotlib axes: log2 abscissa, spread over seeds, a legend that covers no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from normzoo.report.literature import Reference
from normzoo.report.panels import Curve, Panel, Scale
from normzoo.report.style import GREY, matplotlib_arguments, norm_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_FROM = 3.0  # ratio of the largest to the smallest mean from which the errors go on a logarithmic axis
_TICKS = [m * 10.0**e for e in range(-3, 2) for m in (1, 1.5, 2, 3, 5, 7)] + [100.0]
_MOST_SEED_DOTS = 20
MOST_DOTTED = 12  # curves; among more of them single seeds are only a haze


def draw_panel(axes: Axes, letter: str, panel: Panel, chance: float | None) -> None:
    """Draw the curves, set the scales, and put the legend where no point or line is."""
    from normzoo.report.legend import place_legend  # with NumPy, which comes with matplotlib

    axes.set_title(panel.title, loc="left")
    if letter:
        corner: Any = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(letter, (0, 1), xytext=(-30, 6), fontsize=10, fontweight="bold", va="baseline", **corner)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel("Validation error (%)")
    xs = sorted({x for curve in panel.curves for x in (*(x for x, _ in curve.points), *curve.lost)})
    _abscissa(axes, xs, panel.scale)
    log = error_scale(axes, panel.curves)
    levels = _chance(axes, panel.curves, chance)
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
            handles.append(_draw_points(axes, curve, shifted, log, len(panel.curves) <= MOST_DOTTED))
    _mark_lost(axes, panel.curves)
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


def error_scale(axes: Axes, curves: Sequence[Curve], which: Literal["x", "y"] = "y") -> bool:
    """Choose the scale of the errors, logarithmic if they span much, and limits that hold every bar and dot."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    limit, scale, axis = (getattr(axes, name) for name in (f"set_{which}lim", f"set_{which}scale", f"{which}axis"))
    stats = [s for curve in curves for _, s in curve.points]
    if not stats:
        limit(0, 100)
        return False
    values = [v for s in stats for v in (s.mean - (s.std or 0), s.mean + (s.std or 0), *s.values)]
    means = [s.mean for s in stats]
    log = min(means) > 0 and max(means) / min(means) >= _LOG_FROM
    high = max(values)
    if log:
        low = max(min(v for v in values if v > 0), min(means) / 2)
        scale("log")
        limit(low / 1.15, min(high * 1.15, 110))
        axis.set_major_locator(FixedLocator(_TICKS))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    else:
        margin = max(0.08 * (high - min(values)), 0.04 * high, 0.1)
        limit(max(min(values) - margin, 0), high + margin)
    return log


def _chance(axes: Axes, curves: Sequence[Curve], chance: float | None) -> list[float]:
    """Mark the error of guessing where errors come near it; elsewhere it would only stretch the axis."""
    highest = max((s.mean for curve in curves for _, s in curve.points), default=0.0)
    if chance is None or highest < 0.8 * chance:
        return []
    axes.set_ylim(top=max(axes.get_ylim()[1], chance * 1.08))
    axes.axhline(chance, color=GREY, lw=0.7, ls=":", zorder=0)
    place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate("chance", (1, chance), xytext=(-2, 1.5), ha="right", fontsize=6, color=GREY, **place)
    return [chance, chance * 1.03]


def _draw_points(axes: Axes, curve: Curve, shifted: Callable[[float], float], log: bool, seeds: bool) -> Any:
    xs = [shifted(x) for x, _ in curve.points]
    means = [s.mean for _, s in curve.points]
    # On a logarithmic axis a bar that reaches zero would have no end.
    downs = [min(s.std or 0.0, 0.9 * s.mean) if log else s.std or 0.0 for _, s in curve.points]
    ups = [s.std or 0.0 for _, s in curve.points]
    color = curve.style.color
    bars = axes.errorbar(
        xs,
        means,
        yerr=[downs, ups] if any(ups) else None,
        **matplotlib_arguments(curve.style),
        ecolor=color,
        elinewidth=0.8,
        capsize=1.8,
        capthick=0.8,
        zorder=3,
    )
    several = [(x, s) for x, (_, s) in zip(xs, curve.points, strict=True) if s.n > 1] if seeds else []
    dots = [(x, v) for x, s in several for v in s.values[:_MOST_SEED_DOTS]]
    if dots:
        axes.plot(*zip(*dots, strict=True), ls="none", marker=".", ms=3.4, mew=0, color=color, alpha=0.5, zorder=2)
    return bars.lines[0]  # a legend names the line; a bar in each of its entries would say nothing


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
