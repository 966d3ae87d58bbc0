"""BatchNorm fails at test because it is tested with other statistics than it was trained with."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import entry, lost, outcome, spread, where
from normzoo.claims._compare import exceeds, show
from normzoo.claims._draw import log_scale
from normzoo.claims._finding import Check, Finding
from normzoo.claims._statistics import BATCH, KINDS, POPULATION, RUNNING, draw_arms, name_kinds
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL, LARGE = 2, 32
MOST = 0.5  # of what the small batch costs
LOSS = 10.0  # points: less than this is no failure that could have a reason
_AS_IT_IS = {"brightness": 0.0, "contrast": 1.0, "noise": 0.0}


def judge(records: Sequence[CellResult]) -> Finding:
    """How much of BatchNorm's failure other statistics take away, at a small batch and on shifted images."""
    plain = where(_shifted(records, None), norm="batch_norm")
    checks = [
        _repairs("the training set's, recomputed", plain, POPULATION),
        _repairs("those of the validation batch", plain, BATCH),
    ]
    parts = [_told(f"batch {size}", where(plain, batch_size_per_device=size)) for size in (SMALL, LARGE)]
    for shift in _shifts(records):
        cells = where(_shifted(records, shift), norm="batch_norm")
        checks.append(
            exceeds(
                f"validation images of {shift}: the error is higher with running statistics than with their own",
                outcome(cells, RUNNING),
                outcome(cells, BATCH),
            )
        )
        gn = spread(where(_shifted(records, shift), norm="group_norm"), RUNNING)
        parts.append(f"{_told(shift, cells)}, GN {show(gn)}")
    return Finding("BN's error in %, with running / recomputed / batch statistics: " + "; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Error by kind of statistics, over the batch size and for each kind of shift."""
    figure.set_size_inches(7.2, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    plain = where(_shifted(records, None), norm="batch_norm")
    sizes = sorted({record.config["batch_size_per_device"] for record in plain})
    for i, (metric, (_, color, marker)) in enumerate(KINDS.items()):
        points = [(size, spread(where(plain, batch_size_per_device=size), metric)) for size in sizes]
        found = [(size * 1.06 ** (i - 1), stat) for size, stat in points if stat]
        low = [min(stat.std or 0.0, 0.9 * stat.mean) for _, stat in found]
        left.errorbar(
            [x for x, _ in found],
            [stat.mean for _, stat in found],
            yerr=[low, [stat.std or 0.0 for _, stat in found]],
            color=color,
            marker=marker,
            elinewidth=0.8,
            capsize=1.8,
        )
    if left.has_data():
        log_scale(left, "x")
        log_scale(left, "y")
    left.set_xticks(sizes, list(map(str, sizes)))
    left.minorticks_off()
    left.set(xlabel="Batch size in training", ylabel="Validation error (%)")
    left.set_title("BatchNorm, images as in training", loc="left")
    at_large = where(records, batch_size_per_device=LARGE)
    arms = []
    for shift in (None, *_shifts(records)):
        for norm, short in (("batch_norm", "BN"), ("group_norm", "GN")):
            arms.append((f"{short}, {shift or 'as in training'}", where(_shifted(at_large, shift), norm=norm)))
    draw_arms(right, arms)
    name_kinds(right)
    right.set_title(f"Validation images that are shifted, batch {LARGE}", loc="left")


def _shift(record: CellResult) -> str | None:
    """What the validation images get that training images do not: `contrast 0.4`; None for nothing."""
    found: Mapping[str, float] = entry(record, "data.val_shift") or {}
    parts = [f"{name} {found[name]:g}" for name, none in _AS_IT_IS.items() if found.get(name, none) != none]
    return ", ".join(parts) or None


def _shifts(records: Sequence[CellResult]) -> list[str]:
    return list(dict.fromkeys(shift for record in records if (shift := _shift(record))))


def _shifted(records: Sequence[CellResult], shift: str | None) -> list[CellResult]:
    return [record for record in records if _shift(record) == shift]


def _told(name: str, cells: Sequence[CellResult]) -> str:
    stats = [spread(cells, metric) for metric in KINDS]
    n = f" (n = {stats[0].n})" if stats[0] else ""
    gone = f", {found}" if (found := lost(cells)) else ""
    return f"{name}: {' / '.join(map(show, stats))}{n}{gone}"


def _repairs(what: str, plain: Sequence[CellResult], metric: str) -> Check:
    what = (
        f"of the {LOSS:g} points or more that batch {SMALL} costs over batch {LARGE}, statistics other than the "
        f"running ones take away half or more: {what}"
    )
    small, large = (where(plain, batch_size_per_device=size) for size in (SMALL, LARGE))
    ends = outcome(small, RUNNING), outcome(small, metric), outcome(large, RUNNING)
    if any(end.diverged for end in ends):
        return Check(what, False, lost([*small, *large])).on([*small, *large])
    running, other, best = (end.stat for end in ends)
    if running is None or other is None or best is None or any(end.missing for end in ends):
        return Check(what, None, lost([*small, *large]) or "no such cells")
    cost, gained = running.mean - best.mean, running.mean - other.mean
    holds = cost >= LOSS and gained >= MOST * cost
    check = Check(what, holds, f"{gained:.1f} of {cost:.1f} points ({_percent(gained, cost)})".replace("-", "−"))
    return check.on([*small, *large])


def _percent(gained: float, cost: float) -> str:
    return f"{100 * gained / cost:.0f} %" if cost > 0 else "no cost"
