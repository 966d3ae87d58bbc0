"""BatchNorm fails on batches that are not i.i.d.; Batch Renormalization fails less, and GroupNorm not at all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import Outcome, lost, outcome, spread, where
from normzoo.claims._compare import below, exceeds, on_arms, show
from normzoo.claims._draw import CHANCE, log_scale
from normzoo.claims._finding import Check, Finding
from normzoo.claims._statistics import RUNNING, draw_arms, name_kinds
from normzoo.report.series import over_seeds
from normzoo.report.style import GREY, SKY, Style, matplotlib_arguments, norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMS = ("batch_norm", "batch_renorm", "group_norm")
FEW = 2  # classes in a batch, for the checks
CLASSES = (1, 2, 5)
FAILS, UNHARMED = 10.0, 2.0  # points
_RENORM = Style("Batch Renorm", SKY, "D", "--")


def judge(records: Sequence[CellResult]) -> Finding:
    """What batches of two classes cost, in points of error above shuffled batches, per norm."""
    bn, gn = (_cost(records, norm) for norm in ("batch_norm", "group_norm"))
    high, low = (outcome(_cells(records, norm, FEW), RUNNING) for norm in ("batch_norm", "batch_renorm"))
    few = f"batches of {FEW} classes"
    checks = [
        _above(f"with BN {few} cost {FAILS:g} points of error or more", bn, FAILS),
        exceeds(f"{few}: the error is higher with BN than with Batch Renormalization", high, low, unit="points"),
        exceeds(f"{few} cost more with BN than with GN", bn, gn, unit="points"),
        on_arms(
            Check(f"with GN {few} cost less than {UNHARMED:g} points", below(gn, UNHARMED), f"{show(gn)} points"), gn
        ),
    ]
    return Finding("; ".join(_told(records, norm) for norm in NORMS if where(records, norm=norm)), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Error over the number of classes in a batch, and by kind of statistics at two of them."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    shuffled = 10
    for i, norm in enumerate(NORMS):
        points = [(count, spread(_cells(records, norm, count), RUNNING)) for count in (*CLASSES, None)]
        found = [((count or shuffled) * 1.04 ** (i - 1), stat) for count, stat in points if stat]
        left.errorbar(
            [x for x, _ in found],
            [stat.mean for _, stat in found],
            yerr=[[min(stat.std or 0.0, 0.9 * stat.mean) for _, stat in found], [stat.std or 0.0 for _, stat in found]],
            **matplotlib_arguments(_style(norm)),
            elinewidth=0.8,
            capsize=1.8,
            label=_style(norm).name + (f" ({gone})" if (gone := lost(where(records, norm=norm))) else ""),
        )
    left.axhline(CHANCE, color=GREY, lw=0.7, ls=":", zorder=0)
    log_scale(left, "x")
    log_scale(left, "y")
    left.set_xticks([*CLASSES, shuffled], [*map(str, CLASSES), "shuffled"])
    left.minorticks_off()
    left.set(xlabel="Classes in a batch", ylabel="Validation error (%)")
    left.set_title("Running statistics", loc="left")
    left.legend()
    arms = [(norm, count) for count in (None, FEW) for norm in NORMS]
    draw_arms(right, [(_label(norm, count), _cells(records, norm, count)) for norm, count in arms])
    name_kinds(right)
    right.set_title("By kind of statistics", loc="left")


def _cells(records: Sequence[CellResult], norm: str, classes: int | None) -> list[CellResult]:
    cells = where(records, norm=norm)
    return (
        where(cells, data__order="by_class", data__classes_per_batch=classes)
        if classes
        else where(cells, data__order="shuffled")
    )


def _cost(records: Sequence[CellResult], norm: str) -> Outcome:
    """Seed by seed, by how many points the error is higher; a net that diverged is as good as guessing."""
    cells = [_cells(records, norm, count) for count in (FEW, None)]
    few, shuffled = ({record.seed: _error(record) for record in own} for own in cells)
    costs = {
        seed: [high - low] for seed, high in few.items() if high is not None and (low := shuffled.get(seed)) is not None
    }
    both = [*cells[0], *cells[1]]
    diverged = sum(record.status == "diverged" for record in both)
    missing = len(few.keys() | shuffled.keys()) - len(costs)
    return Outcome(over_seeds(costs), diverged, missing, lost(both), both)


def _error(record: CellResult) -> float | None:
    if record.status == "diverged":
        return CHANCE
    return record.metrics.get(RUNNING) if record.status == "ok" else None


def _told(records: Sequence[CellResult], norm: str) -> str:
    stats = {count: spread(_cells(records, norm, count), RUNNING) for count in (None, *CLASSES)}
    parts = [f"{_name(count)} {show(stat)} %" for count, stat in stats.items() if stat]
    stat = stats[FEW]
    gone = f", {found}" if (found := lost(where(records, norm=norm))) else ""
    return f"{_style(norm).name}: {', '.join(parts)}{f' (n = {stat.n})' if stat else ''}{gone}"


def _name(classes: int | None) -> str:
    return f"{classes} {'class' if classes == 1 else 'classes'}" if classes else "shuffled"


def _label(norm: str, classes: int | None) -> str:
    return f"{_style(norm).name},\n{_name(classes)}"


def _style(norm: str) -> Style:
    return _RENORM if norm == "batch_renorm" else norm_style(norm)


def _above(what: str, cost: Outcome, limit: float) -> Check:
    holds = None if cost.stat is None or cost.missing else cost.stat.mean >= limit
    return on_arms(Check(what, holds, f"{show(cost)} points"), cost)
