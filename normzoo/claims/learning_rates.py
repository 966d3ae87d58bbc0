"""BatchNorm makes higher learning rates possible."""

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import lost, ran, show, split, where
from normzoo.claims._checks import Finding, Outcome, at_best, exceeds
from normzoo.claims._draw import RUNNING, draw_along
from normzoo.claims._trains import TRAINS, common, trained, trains
from normzoo.report.checks import Check
from normzoo.report.style import norm_style
from normzoo.text import counted

KEY = "optimizer.base_lr"
FACTOR = 5.0  # the smaller of the paper's two accelerated learning rates
_AT = f"at which every seed has an error below {TRAINS:g} %"


def judge(cells: pd.DataFrame) -> Finding:
    """Judge the largest learning rate that trains, and the error at each net's best, with BatchNorm and without."""
    plain, bn = (where(cells, norm=norm) for norm in ("identity", "batch_norm"))
    same = common(plain, bn, KEY) or (plain[:0], bn[:0])
    without, with_bn = (trained(own, KEY) for own in same)
    both = pd.concat(same)
    largest = both[KEY].max() if len(both) else 0.0
    checks = [
        _larger(f"the largest learning rate {_AT} is larger with BN", without, with_bn, 1.0, largest).on(both.record),
        _larger(f"it is at least {FACTOR:g} × as large with BN", without, with_bn, FACTOR, largest).on(both.record),
        exceeds("the error at the best learning rate is higher without BN", *map(_at_best, same), unit="points"),
    ]
    parts = []
    for norm, own in split(cells, "norm").items():
        found = trained(own, KEY)
        rate, error = at_best(ran(own), KEY, RUNNING, trains)
        best = f"; best {show(error.stat)} % at {rate:g} ({counted(error.stat.n, 'seed')})" if error.stat else ""
        up_to = f"{max(found):g}" if found else "none of them"
        parts.append(f"{norm_style(norm).name}: trains up to {up_to}{best}{lost(own, '; {}')}")
    return Finding(". ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the error over the learning rate."""
    figure.set_size_inches(5.6, 2.9)
    axes = figure.add_subplot()
    draw_along(axes, cells, KEY, "Learning rate")
    axes.set_title("Which learning rates train", loc="left", pad=12)  # above the crosses


def _larger(what: str, plain: list[float] | None, bn: list[float] | None, factor: float, largest: float) -> Check:
    if plain is None or bn is None:
        return Check(what, None, "no learning rates that ran with both")
    if not bn:
        return Check(what, False, "none trains with BN")
    if not plain:
        return Check(what, True, f"{max(bn):g} with BN, none of the learning rates without")
    ratio = max(bn) / max(plain)
    holds = ratio > 1 if factor == 1 else ratio >= factor * (1 - 1e-9)
    found = f"{max(bn):g} against {max(plain):g}: {ratio:.3g} ×"
    if not holds and max(bn) == largest > max(plain):
        return Check(what, None, f"{found}; no larger learning rate was tried")
    return Check(what, holds, found)


def _at_best(cells: pd.DataFrame) -> Outcome:
    _, error = at_best(cells, KEY, RUNNING, trains)
    return replace(error, lost="" if error.stat or cells.empty else "trains at none")
