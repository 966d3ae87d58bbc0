"""The axis of errors, on either side of a panel: its scale, bars of the spread over seeds, chance, what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from normzoo.report.panels import Curve
from normzoo.report.series import Stat
from normzoo.report.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_FROM = 3.0  # ratio of the largest to the smallest mean from which the errors go on a logarithmic axis
_TICKS = [m * 10.0**e for e in range(-3, 2) for m in (1, 1.5, 2, 3, 5, 7)] + [100.0]
_MOST_SEED_DOTS = 20


def error_limits(curves: Sequence[Curve]) -> tuple[bool, float, float]:
    """Whether the errors go on a logarithmic axis, as where they span much, and from where to where it goes.

    It holds every dot, and every bar but for a lower end far below all means and an upper one above 100 %.
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
    """Where the errors are to end so that there is room for an inset above all of them."""
    log, low, high = error_limits(curves)
    share = 0.52  # of the height, for the errors
    return low * (high / low) ** (1 / share) if log else low + (high - low) / share


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


def mark_chance(axes: Axes, curves: Sequence[Curve], chance: float | None, which: Literal["x", "y"] = "y") -> None:
    """Mark the error of guessing where errors come near it; elsewhere it would only stretch the axis."""
    highest = max((s.mean for curve in curves for _, s in curve.points), default=0.0)
    if chance is None or highest < 0.8 * chance:
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

    handle = plot(
        [place for place, _ in points], [stat.mean for _, stat in points], **{**looks, "zorder": 4, "clip_on": False}
    )
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


def mark_lost(axes: Axes, places: Sequence[float], color: str, which: Literal["x", "y"] = "y") -> None:
    """A cross at the far end of the errors where cells diverged or died: they have no error to draw."""
    if not places:  # an empty line that is not clipped takes the layout to the corner of the page
        return
    ends = [1.0] * len(places)
    at = (places, ends) if which == "y" else (ends, places)
    transform = axes.get_xaxis_transform() if which == "y" else axes.get_yaxis_transform()
    axes.plot(*at, transform=transform, ls="none", marker="X", ms=6, mfc="white", mec=color, clip_on=False, zorder=4)
