"""Accumulating gradients does not repair BatchNorm's small batch; to GroupNorm it is a larger batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import Outcome, entry, lost, outcome, spread, text, where
from normzoo.claims._compare import exceeds, on_arms, show
from normzoo.claims._draw import log_scale
from normzoo.claims._finding import Check, Finding
from normzoo.claims._statistics import RUNNING, mark
from normzoo.report.style import norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMS = ("batch_norm", "group_norm")
WHOLE, PART = 32, 2  # samples of a step, and of the batches that it is accumulated over
FAILS, CLOSE, REPAIRED = 10.0, 2.0, 0.5
ARMS = ((WHOLE, 1), (8, WHOLE // 8), (PART, WHOLE // PART), (PART, 1))


def judge(records: Sequence[CellResult]) -> Finding:
    """The error of steps of 32 samples, in one batch and in 16, per norm."""
    found = {(norm, arm): outcome(_cells(records, norm, *arm), RUNNING) for norm in NORMS for arm in ARMS}
    bn, gn = ([found[norm, arm] for arm in ((PART, WHOLE // PART), (WHOLE, 1))] for norm in NORMS)
    small = found["batch_norm", (PART, 1)]
    accumulated = f"{WHOLE // PART} batches of {PART}"
    checks = [
        exceeds(f"with BN {accumulated} end at a higher error than {WHOLE}", bn[0], bn[1], by=FAILS, unit="points"),
        on_arms(_same(f"with GN they give the same error, to {CLOSE:g} points", gn[0], gn[1]), *gn),
        on_arms(_not_repaired(bn[0], bn[1], small), *bn, small),
    ]
    parts = []
    for norm in NORMS:
        told = [f"{_name(*arm)} {show(stat)} %" for arm in ARMS if (stat := found[norm, arm].stat)]
        cells = where(records, norm=norm)
        n = max((stat.n for arm in ARMS if (stat := found[norm, arm].stat)), default=0)
        gone = f", {lost(cells)}" if lost(cells) else ""
        parts.append(f"{norm_style(norm).name}: {', '.join(told) or text(None, cells)} (n = {n}){gone}")
    return Finding("validation error: " + "; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """A row for each way to make a step."""
    figure.set_size_inches(5.6, 2.6)
    axes = figure.add_subplot()
    arms = [arm for arm in ARMS if any(_cells(records, norm, *arm) for norm in NORMS)]
    for i, norm in enumerate(NORMS):
        style = norm_style(norm)
        for row, arm in enumerate(arms):
            stat = spread(_cells(records, norm, *arm), RUNNING)
            if stat:
                mark(axes, stat, row + 0.24 * (i - 0.5), style.color, style.marker)
        gone = lost(where(records, norm=norm))
        label = f"{style.name}{f' ({gone})' if gone else ''}"
        axes.plot([], [], ls="none", marker=style.marker, color=style.color, label=label)
    axes.set_yticks(range(len(arms)), [f"{_name(*arm)},\nsteps of {arm[0] * arm[1]}" for arm in arms])
    axes.set_ylim(max(len(arms), 1) - 0.5, -0.5)
    if axes.has_data():
        log_scale(axes, "x")
    axes.set_xlabel("Validation error (%)")
    axes.set_title("What a step is made of", loc="left")
    axes.legend(loc="upper right")


def _cells(records: Sequence[CellResult], norm: str, batch: int, count: int) -> list[CellResult]:
    cells = where(records, norm=norm, batch_size_per_device=batch)
    return [record for record in cells if entry(record, "trainer.accumulate_grad_batches", 1) == count]


def _name(batch: int, count: int) -> str:
    return f"{count} batches of {batch}" if count > 1 else f"1 batch of {batch}"


def _same(what: str, one: Outcome, other: Outcome) -> Check:
    found = f"{show(one)} against {show(other)} %"
    if one.diverged or other.diverged:
        return Check(what, False, found)
    if one.stat is None or other.stat is None or one.missing or other.missing:
        return Check(what, None, found)
    return Check(what, abs(one.stat.mean - other.stat.mean) <= CLOSE, found)


def _not_repaired(accumulated: Outcome, whole: Outcome, small: Outcome) -> Check:
    what = (
        f"accumulation takes away less than {REPAIRED:.0%} of what BN loses from a batch of {WHOLE} to one of {PART}, "
        f"where that is {FAILS:g} points or more"
    ).replace("%", " %")
    found = f"{show(accumulated)} with it, {show(small)} without, {show(whole)} with the whole batch"
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
