"""BatchNorm makes higher learning rates possible."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.claims._axis import TRAINS, along, common, draw_along, errors, trained
from normzoo.claims._cells import Outcome, lost, split, where
from normzoo.claims._compare import exceeds, show
from normzoo.claims._finding import Check, Finding
from normzoo.report.checks import at_edge
from normzoo.report.series import Stat
from normzoo.report.style import norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY = "optimizer.base_lr"
FACTOR = 5.0  # the smaller of the paper's two accelerated learning rates
_AT = f"at which every seed has an error below {TRAINS:g} %"


def judge(records: Sequence[CellResult]) -> Finding:
    """The largest learning rate that trains, and the error at each net's best, with BatchNorm and without."""
    plain, bn = (where(records, norm=norm) for norm in ("identity", "batch_norm"))
    same = common(plain, bn, KEY) or ([], [])
    rates = [trained(cells, KEY) for cells in same]
    both = [record for cells in same for record in cells]
    largest = max(along(both, KEY), default=0.0)
    checks = [
        _larger(f"the largest learning rate {_AT} is larger with BN", rates, 1.0, largest).on(both),
        _larger(f"it is at least {FACTOR:g} × as large with BN", rates, FACTOR, largest).on(both),
        exceeds("the error at the best learning rate is higher without BN", *map(_at_best, same), unit="points"),
    ]
    parts = []
    for norm, cells in split(records, "norm").items():
        found, (rate, error) = trained(cells, KEY), _best(cells)
        n = f" (n = {error.n})" if error else ""
        best = f"; best {show(error)} % at {rate:g}{n}" if error else ""
        gone = f"; {lost(cells)}" if lost(cells) else ""
        parts.append(
            f"{norm_style(norm).name}: trains up to {f'{max(found):g}' if found else 'none of them'}{best}{gone}"
        )
    return Finding(". ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Error over the learning rate."""
    figure.set_size_inches(5.6, 2.9)
    axes = figure.add_subplot()
    draw_along(axes, records, KEY, "Learning rate")
    axes.set_title("Which learning rates train", loc="left", pad=12)  # above the crosses


def _larger(text: str, rates: Sequence[list[float] | None], factor: float, largest: float) -> Check:
    plain, bn = rates
    if plain is None or bn is None:
        return Check(text, None, "no learning rates that ran with both")
    if not bn:
        return Check(text, False, "none trains with BN")
    if not plain:
        return Check(text, True, f"{max(bn):g} with BN, none of the learning rates without")
    ratio = max(bn) / max(plain)
    holds = ratio > 1 if factor == 1 else ratio >= factor * (1 - 1e-9)
    found = f"{max(bn):g} against {max(plain):g}: {ratio:.3g} ×"
    if not holds and max(bn) == largest > max(plain):
        return Check(text, None, f"{found}; no larger learning rate was tried")
    return Check(text, holds, found)


def _at_best(cells: Sequence[CellResult]) -> Outcome:
    """The error at the best of the learning rates that train; a net that trains at none counts as one that diverged."""
    rate, error = _best(cells)
    tried = along(cells, KEY)
    if error is None:
        return Outcome(None, diverged=len(tried), lost="trains at none" if cells else "", cells=cells)
    return Outcome(error, cells=cells, edge=at_edge(rate, tried))


def _best(cells: Sequence[CellResult]) -> tuple[float | None, Stat | None]:
    found = errors(cells, KEY)
    rate = min(found, key=lambda value: found[value].mean, default=None)
    return rate, None if rate is None else found[rate]
