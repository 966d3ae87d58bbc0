"""Error over a setting that is varied (a learning rate, a scale), per norm, diverged cells shown as such."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import entry, ran, split, spread
from normzoo.claims._draw import CHANCE, log_scale
from normzoo.report.errors_axis import mark_lost
from normzoo.report.series import Stat
from normzoo.report.style import GREY, matplotlib_arguments, norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ERROR = "val_error_running"
TRAINS = 50.0  # percent: a net with a lower error has learned something; guessing among ten classes has 90


def along(records: Sequence[CellResult], key: str) -> dict[float, list[CellResult]]:
    """The cells that ran, to their end or until they diverged, by the setting, in its order."""
    return dict(sorted((value, cells) for value, cells in split(ran(records), key).items() if value is not None))


def common(
    one: Sequence[CellResult], other: Sequence[CellResult], key: str
) -> tuple[list[CellResult], list[CellResult]] | None:
    """The cells that ran, of the settings and seeds that both arms have; None where one lacks a setting of the other.

    A cell that failed would else count as one that does not train.
    """
    arms = [{(entry(record, key), record.seed): record for record in ran(arm)} for arm in (one, other)]
    both = arms[0].keys() & arms[1].keys()
    if {setting for setting, _ in both} != {setting for arm in arms for setting, _ in arm}:
        return None
    first, second = ([record for at, record in arm.items() if at in both] for arm in arms)
    return first, second


def trains(cells: Sequence[CellResult]) -> bool:
    """Whether every seed came below the limit; a diverged one did not."""
    errors = [record.metrics.get(ERROR) if record.status == "ok" else None for record in cells]
    return all(error is not None and error < TRAINS for error in errors)


def trained(records: Sequence[CellResult], key: str) -> list[float] | None:
    """The settings at which every seed trains; None where there are no cells."""
    settings = along(records, key)
    return [value for value, cells in settings.items() if trains(cells)] if settings else None


def errors(records: Sequence[CellResult], key: str) -> Mapping[float, Stat]:
    """The mean error at each setting at which every seed trains."""
    found = {value: spread(cells, ERROR) for value, cells in along(records, key).items() if trains(cells)}
    return {value: stat for value, stat in found.items() if stat}


def draw_along(axes: "Axes", records: Sequence[CellResult], key: str, label: str) -> None:
    """A line a norm; where seeds diverged, a cross on the upper edge with their number."""
    norms = split(records, "norm")
    crossed = False
    values = sorted({value for cells in norms.values() for value in along(cells, key)})
    for i, (norm, cells) in enumerate(norms.items()):
        apart = 1.05 ** (i - (len(norms) - 1) / 2)
        style = norm_style(norm)
        points = [(value, spread(own, ERROR)) for value, own in along(cells, key).items()]
        found = [(value * apart, stat) for value, stat in points if stat]
        axes.errorbar(
            [value for value, _ in found],
            [stat.mean for _, stat in found],
            # On a logarithmic axis a bar that reaches zero would have no end.
            yerr=[
                [min(stat.std or 0.0, 0.9 * stat.mean) for _, stat in found],
                [min(stat.std or 0.0, 100.0 - stat.mean) for _, stat in found],
            ],
            **matplotlib_arguments(style),
            elinewidth=0.8,
            capsize=1.8,
            label=style.name,
        )
        counts = {value: [r.status for r in own].count("diverged") for value, own in along(cells, key).items()}
        lost = {value * apart: f"{count}/{len(along(cells, key)[value])}" for value, count in counts.items() if count}
        crossed = crossed or bool(lost)
        mark_lost(axes, list(lost), style.color)
        for x, count in lost.items():
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
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_ylim(top=100)
    axes.set(xlabel=label, ylabel="Validation error (%)")
    handles, names = axes.get_legend_handles_labels()
    first = int(crossed)  # error bars come after lines, and the cross is to be the last
    order = [*range(first, len(handles)), *range(first)]
    axes.legend([handles[i] for i in order], [names[i] for i in order], loc="upper left", bbox_to_anchor=(1.01, 0.92))
