"""Training nothing but BatchNorm's weights and biases in a random net goes far, and farther than as many others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import Outcome, lost, ran, split, spread, where
from normzoo.claims._compare import below, exceeds, show
from normzoo.claims._draw import CHANCE, log_scale
from normzoo.claims._finding import Check, Finding
from normzoo.claims._statistics import mark
from normzoo.report.checks import at_edge
from normzoo.report.series import Stat
from normzoo.report.style import BLACK, BLUE, GREEN, GREY, PURPLE, VERMILLION
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR = "val_error_running"
RATE = "optimizer.base_lr"
HALF = CHANCE / 2
ARMS = {
    "all": ("everything", BLACK, "o"),
    "norms_and_last": ("norms and last layer", GREEN, "s"),
    "norms": ("norms alone", VERMILLION, "D"),
    "last": ("last layer alone", BLUE, "^"),
    "sampled": ("as many random weights", PURPLE, "v"),
}


def judge(records: Sequence[CellResult]) -> Finding:
    """The error of each part of the net, trained by itself, at the learning rate that is best for it."""
    best = {arm: _best(records, arm) for arm in ARMS}
    norms, sampled, last = (_outcome(records, arm) for arm in ("norms", "sampled", "last"))
    checks = [
        Check(
            f"training the norms alone ends at less than half the error of guessing, {HALF:g} %",
            below(norms, HALF),
            f"{show(norms)} %",
        ).on(records, norms.edge),
        exceeds("as many random weights end at a higher error", sampled, norms, by=5, unit="points"),
        exceeds("the last layer alone ends at a higher error", last, norms, unit="points"),
    ]
    parts = []
    for arm, (name, _, _) in ARMS.items():
        cells = _cells(records, arm)
        if cells:
            rate, error = best[arm]
            n = f" (n = {error.n}, learning rate {rate:g})" if error else ""
            gone = f", {found}" if (found := lost(cells)) else ""
            parts.append(f"{name}{_count(cells)}: {show(error)} %{n}{gone}")
    return Finding("validation error: " + "; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """A row for each part that is trained, at its best learning rate and at the others."""
    figure.set_size_inches(5.8, 2.7)
    axes = figure.add_subplot()
    rows = {arm: cells for arm in ARMS if (cells := _cells(records, arm))}
    for row, (arm, cells) in enumerate(rows.items()):
        rate, best = _best(records, arm)
        _, color, marker = ARMS[arm]
        for other, stat in _by_rate(cells).items():
            if stat is not None and other != rate:
                axes.plot(stat.mean, row + 0.22, ls="none", marker=marker, ms=4, mfc="white", mec=color)
        if best is not None:
            mark(axes, best, row, color, marker)
    axes.axvline(CHANCE, color=GREY, lw=0.7, ls=":", zorder=0)
    axes.set_yticks(range(len(rows)), [f"{ARMS[arm][0]}{_count(cells)}" for arm, cells in rows.items()])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    log_scale(axes, "x")
    axes.set_xlabel("Validation error (%); open: at another learning rate; dotted: guessing")
    axes.set_title("What is trained", loc="left")


def _cells(records: Sequence[CellResult], arm: str) -> list[CellResult]:
    return where(records, optimizer__trains=arm)


def _by_rate(cells: Sequence[CellResult]) -> Mapping[float, Stat | None]:
    """The error at each learning rate at which every seed came to its end, None at the others."""
    ended = {rate: all(r.status == "ok" for r in own) for rate, own in split(cells, RATE).items()}
    return {rate: spread(own, ERROR) if ended[rate] else None for rate, own in split(cells, RATE).items()}


def _outcome(records: Sequence[CellResult], arm: str) -> Outcome:
    """At the best learning rate, which cannot be told while cells are missing; diverged where seeds did at each."""
    cells = _cells(records, arm)
    missing = len(cells) - len(ran(cells))
    rate, stat = _best(records, arm)
    edge = at_edge(rate, split(ran(cells), RATE)) if stat else ""
    return Outcome(stat, 0 if stat else len(ran(cells)), missing, lost(cells), cells, edge)


def _best(records: Sequence[CellResult], arm: str) -> tuple[float, Stat | None]:
    found = {rate: stat for rate, stat in _by_rate(_cells(records, arm)).items() if stat is not None}
    if not found:
        return float("nan"), None
    rate = min(found, key=lambda rate: found[rate].mean)
    return rate, found[rate]


def _count(cells: Sequence[CellResult]) -> str:
    """How many numbers are trained, in percent of all; a net that is trained as a whole says nothing of it."""
    for record in cells:
        trained, whole = (record.metrics.get(name) for name in ("trained_parameters", "parameters"))
        if trained and whole:
            return f" ({trained:,.0f}, {100 * trained / whole:.1f} %)"
    return ""
