"""BatchNorm fails on batches that are not i.i.d.; Batch Renormalization fails less, and GroupNorm not at all."""

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import lost, show, spread, where
from normzoo.claims._checks import Finding, Outcome, exceeds, measured, on_arms, outcome
from normzoo.claims._draw import CHANCE, RUNNING, draw_kinds, error_bars, label, log_scale, ticks
from normzoo.report.checks import Check
from normzoo.report.series import over_seeds
from normzoo.report.style import GREY, SKY, Style, matplotlib_arguments, norm_style
from normzoo.results import CellResult
from normzoo.text import counted

_STYLES = {
    "batch_norm": norm_style("batch_norm"),
    "batch_renorm": Style("Batch Renorm", SKY, "D", "--"),
    "group_norm": norm_style("group_norm"),
}
FEW = 2  # classes in a batch, for the checks
CLASSES = (1, 2, 5)
FAILS, UNHARMED = 10.0, 2.0  # points


def judge(cells: pd.DataFrame) -> Finding:
    """Judge what batches of two classes cost, in points of error above shuffled batches, per norm."""
    bn, gn = (_cost(cells, norm) for norm in ("batch_norm", "group_norm"))
    high, low = (outcome(_cells(cells, norm, FEW), RUNNING) for norm in ("batch_norm", "batch_renorm"))
    few = f"batches of {FEW} classes"
    # A net that diverged is in the costs, as one that guesses.
    fails = measured(lambda cost: cost.mean >= FAILS, replace(bn, diverged=0))
    unharmed = measured(lambda cost: cost.mean < UNHARMED, gn)
    checks = [
        on_arms(Check(f"with BN {few} cost {FAILS:g} points of error or more", fails, f"{bn.show()} points"), bn),
        exceeds(f"{few}: the error is higher with BN than with Batch Renormalization", high, low, unit="points"),
        exceeds(f"{few} cost more with BN than with GN", bn, gn, unit="points"),
        on_arms(Check(f"with GN {few} cost less than {UNHARMED:g} points", unharmed, f"{gn.show()} points"), gn),
    ]
    return Finding("; ".join(_told(cells, norm) for norm in _STYLES if len(where(cells, norm=norm))), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the error over the number of classes in a batch, and by kind of statistics at two of them."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    shuffled = 10
    for i, (norm, style) in enumerate(_STYLES.items()):
        apart = 1.04 ** (i - 1)
        errors = {(count or shuffled) * apart: spread(_cells(cells, norm, count), RUNNING) for count in (*CLASSES, 0)}
        name = style.name + lost(where(cells, norm=norm), " ({})")
        error_bars(left, errors, **matplotlib_arguments(style), label=name)
    left.axhline(CHANCE, color=GREY, lw=0.7, ls=":", zorder=0)
    log_scale(left, "x")
    log_scale(left, "y")
    ticks(left, [*CLASSES, shuffled], [*map(str, CLASSES), "shuffled"])
    label(left, "Running statistics", "Classes in a batch", "Validation error (%)")
    left.legend()
    arms = [(norm, count) for count in (0, FEW) for norm in _STYLES]
    draw_kinds(right, {f"{_STYLES[norm].name},\n{_name(count)}": _cells(cells, norm, count) for norm, count in arms})
    right.set_title("By kind of statistics", loc="left")


def _cells(cells: pd.DataFrame, norm: str, classes: int) -> pd.DataFrame:
    """Select the cells with so many classes in a batch; none stands for shuffled batches."""
    if not classes:
        return where(cells, norm=norm, data__order="shuffled")
    return where(cells, norm=norm, data__order="by_class", data__classes_per_batch=classes)


def _cost(cells: pd.DataFrame, norm: str) -> Outcome:
    """Summarize, seed by seed, by how many points the error is higher; a net that diverged is as good as guessing."""
    few, shuffled = (_cells(cells, norm, classes) for classes in (FEW, 0))
    high, low = ({record.seed: _error(record) for record in own.record} for own in (few, shuffled))
    costs = {
        seed: [error - base]
        for seed, error in high.items()
        if error is not None and (base := low.get(seed)) is not None
    }
    both = pd.concat([few, shuffled])
    diverged = int((both.status == "diverged").sum())
    missing = len(high.keys() | low.keys()) - len(costs)
    return Outcome(over_seeds(costs), diverged, missing, lost(both), list(both.record))


def _error(record: CellResult) -> float | None:
    if record.status == "diverged":
        return CHANCE
    return record.metrics.get(RUNNING) if record.status == "ok" else None


def _told(cells: pd.DataFrame, norm: str) -> str:
    stats = {count: spread(_cells(cells, norm, count), RUNNING) for count in (0, *CLASSES)}
    errors = ", ".join(f"{_name(count)} {show(stat)} %" for count, stat in stats.items() if stat)
    n = f" ({counted(stat.n, 'seed')})" if (stat := stats[FEW]) else ""
    return f"{_STYLES[norm].name}: {errors}{n}{lost(where(cells, norm=norm), ', {}')}"


def _name(classes: int) -> str:
    return f"{classes} {'class' if classes == 1 else 'classes'}" if classes else "shuffled"
