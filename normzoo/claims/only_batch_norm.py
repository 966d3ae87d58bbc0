"""Training nothing but BatchNorm's weights and biases in a random net goes far, and farther than as many others."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import lost, show, split, spread, where
from normzoo.claims._checks import Finding, Outcome, at_best, exceeds, measured
from normzoo.claims._draw import CHANCE, RUNNING, label, log_scale, mark, name_rows
from normzoo.report.checks import Check
from normzoo.report.style import BLACK, BLUE, GREEN, GREY, PURPLE, VERMILLION, Style
from normzoo.text import counted

RATE = "optimizer.base_lr"
HALF = CHANCE / 2
ARMS = {
    "all": Style("everything", BLACK, "o", "-"),
    "norms_and_last": Style("norms and last layer", GREEN, "s", "-"),
    "norms": Style("norms alone", VERMILLION, "D", "-"),
    "last": Style("last layer alone", BLUE, "^", "-"),
    "sampled": Style("as many random weights", PURPLE, "v", "-"),
}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge the error of each part of the net, trained by itself, at the learning rate that is best for it."""
    arms = {arm: where(cells, optimizer__trains=arm) for arm in ARMS}
    best = {arm: _at_best(own) for arm, own in arms.items()}
    norms, sampled, last = (best[arm][1] for arm in ("norms", "sampled", "last"))
    less = f"training the norms alone ends at less than half the error of guessing, {HALF:g} %"
    holds = measured(lambda error: error.mean < HALF, norms)
    checks = [
        Check(less, holds, f"{norms.show()} %").on(cells.record, norms.edge),
        exceeds("as many random weights end at a higher error", sampled, norms, by=5, unit="points"),
        exceeds("the last layer alone ends at a higher error", last, norms, unit="points"),
    ]
    parts = []
    for arm, own in arms.items():
        if len(own):
            rate, error = best[arm][0], best[arm][1].stat
            n = f" ({counted(error.n, 'seed')}, learning rate {rate:g})" if error else ""
            parts.append(f"{ARMS[arm].name}{_count(own)}: {show(error)} %{n}{lost(own, ', {}')}")
    return Finding("validation error: " + "; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw a row for each part that is trained, at its best learning rate and at the others."""
    figure.set_size_inches(5.8, 2.7)
    axes = figure.add_subplot()
    rows = {arm: own for arm in ARMS if len(own := where(cells, optimizer__trains=arm))}
    for row, (arm, own) in enumerate(rows.items()):
        rate, best = _at_best(own)
        style = ARMS[arm]
        for other, at in split(own, RATE).items():
            stat = spread(at, RUNNING)
            if other != rate and _finished(at) and stat is not None:
                axes.plot(stat.mean, row + 0.22, ls="none", marker=style.marker, ms=4, mfc="white", mec=style.color)
        mark(axes, best.stat, row, style)
    axes.axvline(CHANCE, color=GREY, lw=0.7, ls=":", zorder=0)
    name_rows(axes, [f"{ARMS[arm].name}{_count(own)}" for arm, own in rows.items()])
    log_scale(axes, "x")
    label(axes, "What is trained", "Validation error (%); open: at another learning rate; dotted: guessing")


def _at_best(cells: pd.DataFrame) -> tuple[Any, Outcome]:
    return at_best(cells, RATE, RUNNING, _finished)


def _finished(cells: pd.DataFrame) -> bool:
    return bool((cells.status == "ok").all())


def _count(cells: pd.DataFrame) -> str:
    """Say how many numbers are trained, in percent of all; a net that is trained as a whole does not record it."""
    for record in cells.record:
        trained, whole = (record.metrics.get(name) for name in ("trained_parameters", "parameters"))
        if trained and whole:
            return f" ({trained:,.0f}, {100 * trained / whole:.1f} %)"
    return ""
