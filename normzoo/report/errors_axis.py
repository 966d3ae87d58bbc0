"""Draw along the axis of errors, vertical or horizontal: its scale, means and spread over seeds, chance, lost cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from normzoo.report.panels import Curve
from normzoo.report.style import GREY, matplotlib_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Which = Literal["x", "y"]
_LOG_FROM = 3.0  # ratio of the largest to the smallest mean from which the errors go on a logarithmic axis
_TICKS = [m * 10.0**e for e in range(-3, 2) for m in (1, 1.5, 2, 3, 5, 7)] + [100.0]
_MOST_SEED_DOTS = 20


def error_limits(curves: Sequence[Curve]) -> tuple[bool, float, float]:
    """Return whether the axis is logarithmic, as for errors that span much, and its two ends.

    It holds every dot, and every bar except a lower end far below all means and an upper end above 100 %.
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
        return True, low / 1.15, min(high * 1.15, 100.0)
    margin = max(0.08 * (high - min(values)), 0.04 * high, 0.1)
    return False, max(min(values) - margin, 0), min(high + margin, 100.0)


def top_with_inset(curves: Sequence[Curve]) -> float:
    """Return the end of the axis that leaves room for an inset above all errors."""
    log, low, high = error_limits(curves)
    share = 0.52  # of the height, for the errors
    return low * (high / low) ** (1 / share) if log else low + (high - low) / share


def cut_off(curves: Sequence[Curve]) -> bool:
    """Return whether the lower end of some bar lies beyond the axis."""
    _, low, _ = error_limits(curves)
    return any(s.mean - (s.std or 0) < low for curve in curves for _, s in curve.points)


def error_scale(axes: Axes, curves: Sequence[Curve], which: Which) -> None:
    """Set the scale and the limits of the errors."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    limit, scale, axis = (getattr(axes, name) for name in (f"set_{which}lim", f"set_{which}scale", f"{which}axis"))
    log, low, high = error_limits(curves)
    if log:
        scale("log")
        axis.set_major_locator(FixedLocator(_TICKS))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    limit(low, high)


def mark_chance(axes: Axes, curves: Sequence[Curve], chance: float | None, which: Which) -> None:
    """Mark the error of guessing if errors come near it; otherwise it would only stretch the axis."""
    highest = max((s.mean for curve in curves for _, s in curve.points), default=0.0)
    if chance is None or highest < 0.8 * chance or chance < error_limits(curves)[1]:
        return
    line: Any = {"color": GREY, "lw": 0.7, "ls": ":", "zorder": 0}
    text: Any = {"textcoords": "offset points", "ha": "right", "fontsize": 6, "color": GREY}
    if which == "x":
        axes.set_xlim(right=min(max(axes.get_xlim()[1], chance * 1.04), 100))
        axes.axvline(chance, **line)
        axes.annotate("chance", (chance, 1), xytext=(-2, 2), xycoords=("data", "axes fraction"), **text)
    else:
        axes.set_ylim(top=min(max(axes.get_ylim()[1], chance * 1.08), 100))
        axes.axhline(chance, **line)
        axes.annotate("chance", (1, chance), xytext=(-2, 1.5), xycoords=("axes fraction", "data"), **text)


def draw_curve(axes: Axes, curve: Curve, which: Which, *, seeds: bool, aside: float = 0.0) -> Any:
    """Draw means, a bar of ± std around each, a dot for each seed, and crosses for lost cells; return the line.

    A bar whose end lies beyond the axis is clipped there and has no cap.

    Args:
        axes: The panel, with its scale and limits set.
        curve: The places and statistics.
        which: The axis of the errors.
        seeds: Whether to draw the dots.
        aside: Points by which everything is shifted, so that curves do not hide each other.
    """
    from matplotlib.lines import Line2D

    color = curve.style.color
    shift = axes.transData + _aside(axes, which, aside)
    looks: Any = {**matplotlib_arguments(curve.style), **({} if which == "y" else {"linestyle": "none"})}
    line = Line2D([], [], **looks)
    if curve.band:
        return _draw_band(axes, curve)
    if curve.points:  # an empty line that is not clipped would confuse the layout
        x, y = _at([(place, stat.mean) for place, stat in curve.points], which)
        looks |= {f"{which}err": [stat.std or math.nan for _, stat in curve.points]}
        bars: Any = {"elinewidth": 0.8, "capsize": 1.8, "capthick": 0.8, "zorder": 4, "transform": shift}
        line = axes.errorbar(x, y, **bars, **looks).lines[0]
        line.set_clip_on(False)
    dots = [(place, value) for place, stat in curve.points if stat.n > 1 for value in stat.values[:_MOST_SEED_DOTS]]
    if seeds and dots:
        axes.plot(
            *_at(dots, which),
            transform=shift,
            ls="none",
            marker="o",
            ms=2.6,
            mew=0.6,
            mfc="white",
            mec=color,
            zorder=3.5,
        )
    mark_lost(axes, curve.lost, color, which, aside)
    return line


def _draw_band(axes: Axes, curve: Curve) -> Any:
    """Draw a line through the means, with a band of ± std around it."""
    places, means = _at([(place, stat.mean) for place, stat in curve.points], "y")
    stds = [stat.std or 0.0 for _, stat in curve.points]
    low, high = ([mean + sign * std for mean, std in zip(means, stds, strict=True)] for sign in (-1, 1))
    axes.fill_between(places, low, high, color=curve.style.color, alpha=0.15, lw=0)
    return axes.plot(places, means, **matplotlib_arguments(curve.style), ms=2.5 if len(places) <= 20 else 0)[0]


def mark_lost(axes: Axes, places: Sequence[float], color: str, which: Which = "y", aside: float = 0.0) -> None:
    """Draw a cross at the far end of the errors where cells diverged or died: they have no error to draw."""
    if places:
        at = _at([(place, 1.0) for place in places], which)
        edge = axes.get_xaxis_transform() if which == "y" else axes.get_yaxis_transform()
        transform = edge + _aside(axes, which, aside)
        axes.plot(
            *at, transform=transform, ls="none", marker="X", ms=6, mfc="white", mec=color, clip_on=False, zorder=4
        )


def _at(points: Sequence[tuple[float, float]], which: Which) -> tuple[list[float], list[float]]:
    """Return places and errors as coordinates."""
    places, errors = [place for place, _ in points], [error for _, error in points]
    return (places, errors) if which == "y" else (errors, places)


def _aside(axes: Axes, which: Which, points: float) -> Any:
    """Return a shift along the other axis."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    x, y = (points / 72, 0.0) if which == "y" else (0.0, -points / 72)
    return ScaledTranslation(x, y, figure.dpi_scale_trans)


def say_nothing_ended(axes: Axes, which: Which) -> None:
    """Replace the ticks of a panel of crosses alone, beside which an axis of numbers would look like measurements."""
    (axes.yaxis if which == "y" else axes.xaxis).set_ticks([])
    axes.text(
        0.5, 0.5, "no error: every cell diverged or died", transform=axes.transAxes, ha="center", color=GREY, fontsize=7
    )
