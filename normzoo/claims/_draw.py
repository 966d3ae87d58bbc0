"""Draw what the figures of claims have in common."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from normzoo.claims._cells import Curve, lost, ran, recorded, split, spread
from normzoo.report.errors_axis import mark_lost
from normzoo.report.series import Stat
from normzoo.report.style import BLUE, GREEN, GREY, VERMILLION, Style, matplotlib_arguments, norm_style

CHANCE = 90.0  # error of guessing among ten classes, in percent
RUNNING, POPULATION, BATCH = "val_error_running", "val_error_population", "val_error_batch"
KINDS = {
    RUNNING: Style("running statistics", VERMILLION, "o", "-"),
    POPULATION: Style("recomputed", BLUE, "^", "-"),
    BATCH: Style("of the batch", GREEN, "s", "-"),
}
_NO_KIND = Style("no such statistics", GREY, "D", "-")


def label(axes: Axes, title: str, x: str = "", y: str = "", **looks: Any) -> None:
    """Set the title, on the left, and the names of both axes."""
    axes.set_title(title, loc="left", **looks)
    axes.set(xlabel=x, ylabel=y)


def styled(style: Style, *, marked: bool = True, **more: Any) -> dict[str, Any]:
    """Return the style as arguments for a line; `more` goes before it."""
    marker = {"marker": style.marker, "ms": 3} if marked else {}
    return {"color": style.color, "ls": style.dash, "lw": 1.2, "label": style.name} | marker | more


def band(
    axes: Axes,
    curve: Curve,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
    least: float = -math.inf,
    **looks: Any,
) -> None:
    """Draw a line through the means, and a band of ± one standard deviation around it.

    Args:
        axes: Where.
        curve: The places and the statistics.
        within: Where no value can be the band is cut off.
        least: The share of the mean that the band reaches down to at most; on a logarithmic axis one that comes to zero
            would have no end.
        looks: Of the line.
    """
    xs, stats = curve
    if not xs:
        return
    (line,) = axes.plot(xs, [stat.mean for stat in stats], **looks)
    if any(stat.std for stat in stats):
        low = [max(stat.mean - (stat.std or 0), least * stat.mean if least > 0 else least, within[0]) for stat in stats]
        high = [min(stat.mean + (stat.std or 0), within[1]) for stat in stats]
        axes.fill_between(xs, low, high, color=line.get_color(), alpha=0.15, lw=0)


def error_bars(axes: Axes, points: Mapping[float, Stat | None], *, top: float = math.inf, **looks: Any) -> None:
    """Draw the means over x with bars of ± std that end at `top` and above zero, as a logarithmic axis asks for."""
    found = {x: stat for x, stat in points.items() if stat}
    means = [stat.mean for stat in found.values()]
    low = [min(stat.std or 0.0, 0.9 * stat.mean) for stat in found.values()]
    high = [min(stat.std or 0.0, top - stat.mean) for stat in found.values()]
    axes.errorbar(list(found), means, yerr=[low, high], elinewidth=0.8, capsize=1.8, **looks)


def mark(axes: Axes, stat: Stat | None, y: float, style: Style) -> None:
    """Draw mean ± std sideways, with a dot for each seed."""
    if stat is None:
        return
    left = min(stat.std or 0.0, 0.9 * stat.mean)  # on a logarithmic axis a bar that reaches zero would have no end
    bars: Any = {"fmt": style.marker, "ms": 4.5, "color": style.color, "elinewidth": 0.8, "capsize": 1.8}
    axes.errorbar(stat.mean, y, xerr=[[left], [stat.std or 0.0]], **bars)
    axes.plot(stat.values, [y] * stat.n, ls="none", marker=".", ms=2.5, color=style.color, alpha=0.5)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a panel, the first one on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)


def draw_kinds(axes: Axes, arms: Mapping[str, pd.DataFrame]) -> None:
    """Draw a row an arm: its error with each kind of statistics, one mark where they are the same."""
    arms = {name: cells for name, cells in arms.items() if len(cells)}
    for row, cells in enumerate(arms.values()):
        finished = [record.metrics for record in cells.record if record.status == "ok"]
        differ = any(metrics.get(RUNNING) != metrics.get(BATCH) for metrics in finished)
        kinds = KINDS if differ else {RUNNING: _NO_KIND}
        for i, (metric, style) in enumerate(kinds.items()):
            mark(axes, spread(cells, metric), row + 0.2 * (i - (len(kinds) - 1) / 2), style)
    name_rows(axes, [name + lost(cells, "\n({})") for name, cells in arms.items()])
    log_scale(axes, "x")
    axes.set_xlabel("Validation error (%)")
    for style in (*KINDS.values(), _NO_KIND):
        axes.plot([], [], ls="none", marker=style.marker, ms=4.5, color=style.color, label=style.name)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.17), ncols=4, columnspacing=1, handletextpad=0.1)


def draw_along(axes: Axes, cells: pd.DataFrame, key: str, name: str) -> None:
    """Draw the error over a setting, a line a norm, and a cross on the upper edge where seeds diverged."""
    norms = {norm: dict(sorted(split(ran(own), key).items())) for norm, own in split(cells, "norm").items()}
    crossed = False
    for i, (norm, settings) in enumerate(norms.items()):
        apart = 1.05 ** (i - (len(norms) - 1) / 2)
        style = norm_style(norm)
        errors = {value * apart: spread(own, RUNNING) for value, own in settings.items()}
        error_bars(axes, errors, top=100.0, **matplotlib_arguments(style), label=style.name)
        counts = {value * apart: (int((own.status == "diverged").sum()), len(own)) for value, own in settings.items()}
        crosses = {x: f"{bad}/{of}" for x, (bad, of) in counts.items() if bad}
        crossed = crossed or bool(crosses)
        mark_lost(axes, list(crosses), style.color)
        for x, count in crosses.items():
            axes.annotate(
                count, (x, 1.0), xycoords=axes.get_xaxis_transform(), xytext=(0, 4.5), textcoords="offset points",
                ha="center", fontsize=5.5, color=style.color, annotation_clip=False,
            )  # fmt: skip
    axes.axhline(CHANCE, color=GREY, lw=0.7, ls=":", zorder=0)
    axes.annotate(
        "guessing", (1.0, CHANCE), xycoords=axes.get_yaxis_transform(), xytext=(4, 0), textcoords="offset points",
        va="center", fontsize=6, color=GREY, annotation_clip=False,
    )  # fmt: skip
    if crossed:
        axes.plot([], [], ls="none", marker="X", ms=6, mfc="white", mec=GREY, label="seeds that diverged")
    log_scale(axes, "x")
    log_scale(axes, "y")
    ticks(axes, sorted({value for settings in norms.values() for value in settings}))
    axes.set_ylim(top=100)
    axes.set(xlabel=name, ylabel="Validation error (%)")
    handles, names = axes.get_legend_handles_labels()
    first = int(crossed)  # error bars come after lines, and the cross is to be the last
    order = [*range(first, len(handles)), *range(first)]
    axes.legend([handles[i] for i in order], [names[i] for i in order], loc="upper left", bbox_to_anchor=(1.01, 0.92))


def share_by_step(axes: Axes, cells: pd.DataFrame, name: str, **more: Any) -> None:
    """Draw the mean share over layers by step, in percent, a line a norm."""
    for norm, own in split(cells, "norm").items():
        curve = recorded(own, "health_step", lambda arrays: 100 * arrays[f"health_{name}"].mean(1))
        band(axes, curve, within=(0, 100), **styled(norm_style(norm), marked=False, **more))


def share_by_layer(axes: Axes, cells: pd.DataFrame, name: str) -> None:
    """Draw the share of each layer at the last measurement without nan, in percent, a line a norm."""

    def last_row(arrays: Mapping[str, Any]) -> list[float]:
        rows = [row for row in arrays[f"health_{name}"] if not any(value != value for value in row)]
        return [100 * float(value) for value in rows[-1]] if rows else []

    for norm, own in split(cells, "norm").items():
        band(axes, recorded(own, "", last_row), within=(0, 100), **styled(norm_style(norm), lw=1.1, label=None))


def lost_by_norm(cells: pd.DataFrame) -> str:
    """Write ` (no norm: 1 diverged)`, for a title; nothing where every cell finished."""
    gone = [lost(own, f"{norm_style(norm).name}: {{}}") for norm, own in split(cells, "norm").items()]
    return f" ({named})" if (named := "; ".join(filter(None, gone))) else ""


def legend_above(figure: Figure, panels: Iterable[Axes], columns: int | None = None) -> None:
    """Draw one legend for all panels above them, in one row or in so many columns."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    if found:
        figure.legend(list(found.values()), list(found), loc="outside upper left", ncols=columns or len(found))


def legend(axes: Axes, **options: Any) -> None:
    """Draw a legend where there is something to name: of cells that all failed there is nothing."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(**options)


def whole_ticks(*panels: Axes) -> None:
    """Put ticks at whole numbers only: epochs, batches."""
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def ticks(axes: Axes, places: Sequence[float], names: Sequence[str] = ()) -> None:
    """Put ticks of x at these places and nowhere else."""
    axes.set_xticks(places, names or [f"{place:g}" for place in places])
    axes.minorticks_off()


def log_scale(axes: Axes, which: str) -> None:
    """Make an axis logarithmic with ticks that read 0.2 and 50; it stays linear where no value is positive."""
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
