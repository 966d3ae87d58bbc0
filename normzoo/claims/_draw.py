"""What the figures of claims have in common."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from normzoo.report.series import Stat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANCE = 90.0  # error of guessing among ten classes, in percent


def band(
    axes: "Axes",
    xs: Sequence[float],
    stats: Sequence[Stat],
    *,
    within: tuple[float, float] | None = None,
    least: float | None = None,
    **looks: Any,
) -> None:
    """A line through the means, and a band of ± one standard deviation around it.

    Args:
        within: Where no value can be the band is cut off.
        least: The share of the mean that the band reaches down to at most; on a logarithmic axis one that comes to zero
            would have no end.
    """
    if not xs:
        return
    (line,) = axes.plot(xs, [stat.mean for stat in stats], **looks)
    if any(stat.std for stat in stats):
        low, high = ([stat.mean + sign * (stat.std or 0.0) for stat in stats] for sign in (-1, 1))
        if least is not None:
            low = [max(edge, least * stat.mean) for edge, stat in zip(low, stats, strict=True)]
        if within is not None:
            low, high = ([min(max(value, within[0]), within[1]) for value in edge] for edge in (low, high))
        axes.fill_between(xs, low, high, color=line.get_color(), alpha=0.15, lw=0)


def legend_above(figure: "Figure", panels: Iterable["Axes"], columns: int | None = None) -> None:
    """One legend for all panels, above them, where it covers nothing; in one row, or in so many columns."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(list(found.values()), list(found), loc="outside upper left", ncols=columns or len(found))


def legend(axes: "Axes", **options: Any) -> None:
    """A legend where there is something to name: of cells that all failed there is nothing."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(**options)


def whole_ticks(axes: "Axes") -> None:
    """Ticks at whole numbers only: epochs, batches."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def log_scale(axes: "Axes", which: str) -> None:
    """A logarithmic axis whose ticks read 0.2 and 50, not powers of ten; a linear one where no value is positive."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not math.isfinite(axes.dataLim.minposy if which == "y" else axes.dataLim.minposx):
        return
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    low, high = sorted(axis.get_view_interval())
    span = high / low if low > 0 else 10.0
    steps = (1.0,) if span > 3000 else (1.0, 3.0) if span > 30 else (1.0, 2.0, 5.0) if span > 5 else (1, 2, 3, 4, 6, 8)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
