"""Accumulating gradients does not repair BatchNorm's small batch; to GroupNorm it is a larger batch."""

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import lost, show, spread, text, where
from normzoo.claims._checks import Finding, Outcome, exceeds, measured, on_arms, outcome
from normzoo.claims._draw import RUNNING, label, log_scale, mark, name_rows
from normzoo.report.checks import Check
from normzoo.report.style import norm_style
from normzoo.text import counted

NORMS = ("batch_norm", "group_norm")
WHOLE, PART = 32, 2  # samples of a step, and of the batches that it is accumulated over
FAILS, CLOSE, REPAIRED = 10.0, 2.0, 0.5
ARMS = ((WHOLE, 1), (8, WHOLE // 8), (PART, WHOLE // PART), (PART, 1))


def judge(cells: pd.DataFrame) -> Finding:
    """Judge the error of steps of 32 samples, in one batch and in 16, per norm."""
    found = {norm: {arm: outcome(_cells(cells, norm, *arm), RUNNING) for arm in ARMS} for norm in NORMS}
    bn, gn = ([found[norm][arm] for arm in ((PART, WHOLE // PART), (WHOLE, 1))] for norm in NORMS)
    small = found["batch_norm"][PART, 1]
    accumulated = f"{WHOLE // PART} batches of {PART}"
    same = measured(lambda one, other: abs(one.mean - other.mean) <= CLOSE, *gn)
    beside = f"{gn[0].show()} against {gn[1].show()} %"
    checks = [
        exceeds(f"with BN {accumulated} end at a higher error than {WHOLE}", bn[0], bn[1], by=FAILS, unit="points"),
        on_arms(Check(f"with GN they give the same error, to {CLOSE:g} points", same, beside), *gn),
        on_arms(_not_repaired(bn[0], bn[1], small), *bn, small),
    ]
    parts = []
    for norm, arms in found.items():
        told = {arm: of.stat for arm, of in arms.items() if of.stat}
        own = where(cells, norm=norm)
        errors = ", ".join(f"{_name(*arm)} {show(stat)} %" for arm, stat in told.items()) or text(None, own)
        n = max((stat.n for stat in told.values()), default=0)
        parts.append(f"{norm_style(norm).name}: {errors} ({counted(n, 'seed')}){lost(own, ', {}')}")
    return Finding("validation error: " + "; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw a row for each way to make a step."""
    figure.set_size_inches(5.6, 2.6)
    axes = figure.add_subplot()
    arms = [arm for arm in ARMS if any(len(_cells(cells, norm, *arm)) for norm in NORMS)]
    for i, norm in enumerate(NORMS):
        style = norm_style(norm)
        for row, arm in enumerate(arms):
            mark(axes, spread(_cells(cells, norm, *arm), RUNNING), row + 0.24 * (i - 0.5), style)
        name = style.name + lost(where(cells, norm=norm), " ({})")
        axes.plot([], [], ls="none", marker=style.marker, color=style.color, label=name)
    name_rows(axes, [f"{_name(*arm)},\nsteps of {arm[0] * arm[1]}" for arm in arms])
    log_scale(axes, "x")
    label(axes, "What a step is made of", "Validation error (%)")
    axes.legend(loc="upper right")


def _cells(cells: pd.DataFrame, norm: str, batch: int, count: int) -> pd.DataFrame:
    counts = "trainer.accumulate_grad_batches"
    cells = where(cells, norm=norm, batch=batch)
    return cells[cells[counts].fillna(1) == count] if counts in cells else cells if count == 1 else cells[:0]


def _name(batch: int, count: int) -> str:
    return f"{count} batches of {batch}" if count > 1 else f"1 batch of {batch}"


def _not_repaired(accumulated: Outcome, whole: Outcome, small: Outcome) -> Check:
    what = (
        f"accumulation takes away less than {100 * REPAIRED:g} % of what BN loses from a batch of {WHOLE} to one of "
        f"{PART}, where that is {FAILS:g} points or more"
    )
    found = f"{accumulated.show()} with it, {small.show()} without, {whole.show()} with the whole batch"
    # Without a number for what is lost there is no share of it; unless accumulation too ends in nothing.
    if whole.diverged or (small.diverged and (small.stat or accumulated.stat)):
        return Check(what, False, found)
    if whole.stat is None or any(arm.missing or not (arm.stat or arm.diverged) for arm in (accumulated, whole, small)):
        return Check(what, None, found)
    if small.stat is None:
        return Check(what, True, found)
    loss = small.stat.mean - whole.stat.mean
    if loss < FAILS:
        return Check(what, False, f"BN loses {loss:.1f} points")
    if accumulated.stat is None:
        return Check(what, True, found)
    share = (small.stat.mean - accumulated.stat.mean) / loss
    return Check(what, share < REPAIRED, f"{100 * share:.0f} % of {loss:.1f} points".replace("-", "−"))
