"""The error under each kind of statistics that a net can be tested with, arm by arm."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import lost, spread
from normzoo.claims._draw import log_scale
from normzoo.report.series import Stat
from normzoo.report.style import BLUE, GREEN, GREY, VERMILLION
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUNNING, POPULATION, BATCH = "val_error_running", "val_error_population", "val_error_batch"
KINDS = {
    RUNNING: ("running statistics", VERMILLION, "o"),
    POPULATION: ("recomputed", BLUE, "^"),
    BATCH: ("of the batch", GREEN, "s"),
}


def differ(records: Sequence[CellResult]) -> bool:
    """Whether the cells' errors depend on the kind of statistics at all."""
    return any(record.metrics.get(RUNNING) != record.metrics.get(BATCH) for record in records if record.status == "ok")


def draw_arms(axes: "Axes", arms: Sequence[tuple[str, Sequence[CellResult]]]) -> None:
    """A row an arm with cells: mean ± std over seeds for each kind of statistics, one mark where they are the same."""
    arms = [(label, cells) for label, cells in arms if cells]
    for row, (_, cells) in enumerate(arms):
        kinds = list(KINDS) if differ(cells) else [RUNNING]
        for i, metric in enumerate(kinds):
            y = row + 0.2 * (i - (len(kinds) - 1) / 2)
            _, color, marker = KINDS[metric]
            stat = spread(cells, metric)
            if stat:
                mark(axes, stat, y, color if len(kinds) > 1 else GREY, marker if len(kinds) > 1 else "D")
    axes.set_yticks(
        range(len(arms)), [f"{label}\n({gone})" if (gone := lost(cells)) else label for label, cells in arms]
    )
    axes.set_ylim(max(len(arms), 1) - 0.5, -0.5)
    if axes.has_data():
        log_scale(axes, "x")
    axes.set_xlabel("Validation error (%)")


def mark(axes: "Axes", stat: Stat, y: float, color: str, marker: str) -> None:
    """Mean ± std, sideways, with a dot for each seed."""
    left = min(stat.std or 0.0, 0.9 * stat.mean)  # on a logarithmic axis a bar that reaches zero would have no end
    axes.errorbar(
        stat.mean, y, xerr=[[left], [stat.std or 0.0]], fmt=marker, ms=4.5, color=color, elinewidth=0.8, capsize=1.8
    )
    axes.plot(stat.values, [y] * stat.n, ls="none", marker=".", ms=2.5, color=color, alpha=0.5)


def name_kinds(axes: "Axes") -> None:
    """The legend of `draw_arms`, below the axes."""
    for name, color, marker in (*KINDS.values(), ("no such statistics", GREY, "D")):
        axes.plot([], [], ls="none", marker=marker, ms=4.5, color=color, label=name)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.17), ncols=4, columnspacing=1, handletextpad=0.1)
