"""With BatchNorm one can be careless about the initialization."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import lost, show, split, spread, text, where
from normzoo.claims._checks import Finding
from normzoo.claims._draw import RUNNING, draw_along
from normzoo.claims._trains import TRAINS, along, common, trained
from normzoo.report.checks import Check
from normzoo.report.style import norm_style

KEY = "model.init_scale"
SPAN = 10.0  # points: how far apart the errors may be for the scale not to matter


def judge(cells: pd.DataFrame) -> Finding:
    """Judge which scales of the initial weights train, and how much the error depends on them."""
    plain, bn = (where(cells, norm=norm) for norm in ("identity", "batch_norm"))
    return Finding(
        ". ".join(_told(norm, own) for norm, own in split(cells, "norm").items()),
        [check.on(cells.record) for check in (_all_train(bn), _fewer_train(plain, bn), _even(bn))],
    )


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the error over the scale of the initial weights."""
    figure.set_size_inches(5.6, 2.9)
    axes = figure.add_subplot()
    draw_along(axes, cells, KEY, "Scale of the initial weights (1: He et al. 2015)")
    axes.set_title("Which initializations train", loc="left", pad=12)  # above the crosses


def _all_train(bn: pd.DataFrame) -> Check:
    asked = f"with BN every scale trains: every seed has an error below {TRAINS:g} %"
    scales, found = list(along(bn, KEY)), trained(bn, KEY)
    if found is None or len(scales) < 2:
        return Check(asked, None, f"{len(scales)} scales with cells")
    measured = f"{len(found)} of {len(scales)} scales, {_listed(scales)}"
    if len(found) < len(scales):
        return Check(asked, False, measured)
    return Check(asked, None if _failed(bn) else True, f"{measured}{_failed(bn)}")


def _fewer_train(plain: pd.DataFrame, bn: pd.DataFrame) -> Check:
    asked = "without a norm fewer of the scales train than with BN"
    without, with_bn = (trained(cells, KEY) for cells in common(plain, bn, KEY) or (plain[:0], bn[:0]))
    if with_bn is None or without is None:
        return Check(asked, None, "no scales that ran with both")
    return Check(asked, len(without) < len(with_bn), f"{_listed(without)} without, {_listed(with_bn)} with BN")


def _even(bn: pd.DataFrame) -> Check:
    asked = f"with BN the mean errors of all scales are within {SPAN:g} points, diverged cells counting as none"
    stats = [spread(cells, RUNNING) for cells in along(bn, KEY).values()]
    means = [stat.mean for stat in stats if stat]
    if len(stats) < 2:
        return Check(asked, None, f"{len(stats)} scales with cells")
    if (bn.status == "diverged").any() or len(means) < len(stats):
        return Check(asked, False, lost(bn))
    span = max(means) - min(means)
    measured = f"{min(means):.1f} to {max(means):.1f} %: {span:.1f} points{_failed(bn)}"
    return Check(asked, None if span < SPAN and _failed(bn) else span < SPAN, measured)


def _failed(cells: pd.DataFrame) -> str:
    return lost(cells[cells.status != "diverged"], "; {}")


def _told(norm: str, cells: pd.DataFrame) -> str:
    scales, found = list(along(cells, KEY)), trained(cells, KEY) or []
    at_one = where(cells, model__init_scale=1)
    ends = {scale: spread(where(cells, model__init_scale=scale), RUNNING) for scale in found if scale != 1}
    errors = f"; error {text(spread(at_one, RUNNING), unit='%')} at 1" if len(at_one) else ""
    if means := {scale: stat for scale, stat in ends.items() if stat}:
        worst = max(means, key=lambda scale: (means[scale].mean, scale))
        errors += f", at most {show(means[worst])} % at {worst:g}"
    train = f"{len(found)} of {len(scales)} scales train ({_listed(found)})"
    return f"{norm_style(norm).name}: {train}{errors}{lost(cells, '; {}')}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "none"
