"""BatchNorm fails at test because it is tested with other statistics than it was trained with."""

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import lost, show, spread, where
from normzoo.claims._checks import Finding, exceeds, measured, outcome
from normzoo.claims._draw import (
    BATCH,
    KINDS,
    POPULATION,
    RUNNING,
    draw_kinds,
    error_bars,
    label,
    log_scale,
    ticks,
)
from normzoo.report.checks import Check
from normzoo.text import counted

SMALL, LARGE = 2, 32
MOST = 0.5  # of what the small batch costs
LOSS = 10.0  # points: less than this is no failure that could have a reason
_AS_IT_IS = {"brightness": 0.0, "contrast": 1.0, "noise": 0.0}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge how much of BatchNorm's failure other statistics repair, at a small batch and on shifted images."""
    shifts = _by_shift(cells)
    plain = where(shifts.pop("", cells[:0]), norm="batch_norm")
    checks = [
        _repairs("the training set's, recomputed", plain, POPULATION),
        _repairs("those of the validation batch", plain, BATCH),
    ]
    parts = [_told(f"batch {size}", where(plain, batch=size)) for size in (SMALL, LARGE)]
    for shift, own in shifts.items():
        bn, gn = (where(own, norm=norm) for norm in ("batch_norm", "group_norm"))
        what = f"validation images of {shift}: the error is higher with running statistics than with their own"
        checks.append(exceeds(what, outcome(bn, RUNNING), outcome(bn, BATCH)))
        parts.append(f"{_told(shift, bn)}, GN {show(spread(gn, RUNNING))}")
    return Finding("BN's error in %, with running / recomputed / batch statistics: " + "; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the error by kind of statistics, over the batch size and for each kind of shift."""
    figure.set_size_inches(7.2, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    shifts = _by_shift(cells)
    plain = where(shifts.get("", cells[:0]), norm="batch_norm")
    sizes = sorted(plain.batch.dropna().unique())
    for i, (metric, style) in enumerate(KINDS.items()):
        errors = {size * 1.06 ** (i - 1): spread(where(plain, batch=size), metric) for size in sizes}
        error_bars(left, errors, color=style.color, marker=style.marker)
    log_scale(left, "x")
    log_scale(left, "y")
    ticks(left, sizes)
    label(left, "BatchNorm, images as in training", "Batch size in training", "Validation error (%)")
    arms = {
        f"{short}, {shift or 'as in training'}": where(own, batch=LARGE, norm=norm)
        for shift, own in shifts.items()
        for norm, short in (("batch_norm", "BN"), ("group_norm", "GN"))
    }
    draw_kinds(right, arms)
    right.set_title(f"Validation images that are shifted, batch {LARGE}", loc="left")


def _by_shift(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Group the cells by what only the validation images get, `contrast 0.4`; those where it is nothing come first."""
    shifts = pd.Series("", cells.index)
    for name, none in _AS_IT_IS.items():
        if (column := f"data.val_shift.{name}") in cells:
            found = cells[column].fillna(none)
            shifts += found.map(lambda value, name=name: f", {name} {value:g}").where(found != none, "")
    groups = dict(list(cells.groupby(shifts.str.removeprefix(", "), sort=False)))
    return {shift: groups[shift] for shift in sorted(groups, key=bool)}


def _told(name: str, cells: pd.DataFrame) -> str:
    stats = [spread(cells, metric) for metric in KINDS]
    n = f" ({counted(stats[0].n, 'seed')})" if stats[0] else ""
    return f"{name}: {' / '.join(map(show, stats))}{n}{lost(cells, ', {}')}"


def _repairs(what: str, plain: pd.DataFrame, metric: str) -> Check:
    what = (
        f"of the {LOSS:g} points or more that batch {SMALL} costs over batch {LARGE}, statistics other than the "
        f"running ones take away half or more: {what}"
    )
    small, large = (where(plain, batch=size) for size in (SMALL, LARGE))
    ends = outcome(small, RUNNING), outcome(small, metric), outcome(large, RUNNING)
    both = pd.concat([small, large])

    holds, found = measured(lambda *_: True, *ends), lost(both) or "no such cells"
    if holds:
        running, other, best = (end.stat.mean for end in ends if end.stat)
        cost, gained = running - best, running - other
        holds = cost >= LOSS and gained >= MOST * cost
        share = f"{100 * gained / cost:.0f} %" if cost > 0 else "no cost"
        found = f"{gained:.1f} of {cost:.1f} points ({share})".replace("-", "−")
    return Check(what, holds, found).on(both.record)
