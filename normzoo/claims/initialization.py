"""With BatchNorm one can be careless about the initialization."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.claims._axis import ERROR, TRAINS, along, common, draw_along, trained
from normzoo.claims._cells import lost, split, spread, text, where
from normzoo.claims._compare import show
from normzoo.claims._finding import Check, Finding
from normzoo.report.style import norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY = "model.init_scale"
SPAN = 10.0  # points: how far apart the errors may be for the scale not to matter


def judge(records: Sequence[CellResult]) -> Finding:
    """Which scales of the initial weights train, and how much the error depends on them."""
    plain, bn = (where(records, norm=norm) for norm in ("identity", "batch_norm"))
    return Finding(
        ". ".join(_arm(norm, cells) for norm, cells in split(records, "norm").items()),
        [check.on(records) for check in (_all_train(bn), _fewer_train(plain, bn), _even(bn))],
    )


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Error over the scale of the initial weights."""
    figure.set_size_inches(5.6, 2.9)
    axes = figure.add_subplot()
    draw_along(axes, records, KEY, "Scale of the initial weights (1: He et al. 2015)")
    axes.set_title("Which initializations train", loc="left", pad=12)  # above the crosses


def _all_train(bn: Sequence[CellResult]) -> Check:
    asked = f"with BN every scale trains: every seed has an error below {TRAINS:g} %"
    scales, found = list(along(bn, KEY)), trained(bn, KEY)
    if found is None or len(scales) < 2:
        return Check(asked, None, f"{len(scales)} scales with cells")
    measured = f"{len(found)} of {len(scales)} scales, {_listed(scales)}"
    if len(found) < len(scales):
        return Check(asked, False, measured)
    return Check(asked, None if _failed(bn) else True, f"{measured}{_failed(bn)}")


def _fewer_train(plain: Sequence[CellResult], bn: Sequence[CellResult]) -> Check:
    asked = "without a norm fewer of the scales train than with BN"
    without, with_bn = (trained(cells, KEY) for cells in common(plain, bn, KEY) or ([], []))
    if with_bn is None or without is None:
        return Check(asked, None, "no scales that ran with both")
    return Check(asked, len(without) < len(with_bn), f"{_listed(without)} without, {_listed(with_bn)} with BN")


def _even(bn: Sequence[CellResult]) -> Check:
    asked = f"with BN the mean errors of all scales are within {SPAN:g} points, diverged cells counting as none"
    stats = {value: spread(cells, ERROR) for value, cells in along(bn, KEY).items()}
    means = [stat.mean for stat in stats.values() if stat]
    if len(stats) < 2:
        return Check(asked, None, f"{len(stats)} scales with cells")
    if any(record.status == "diverged" for record in bn) or len(means) < len(stats):
        return Check(asked, False, lost(bn))
    span = max(means) - min(means)
    measured = f"{min(means):.1f} to {max(means):.1f} %: {span:.1f} points{_failed(bn)}"
    return Check(asked, None if span < SPAN and _failed(bn) else span < SPAN, measured)


def _failed(cells: Sequence[CellResult]) -> str:
    """What became of the cells that came to no result; empty where there are none."""
    gone = lost(record for record in cells if record.status != "diverged")
    return f"; {gone}" if gone else ""


def _arm(norm: str, cells: Sequence[CellResult]) -> str:
    scales, found = list(along(cells, KEY)), trained(cells, KEY) or []
    worst, at_one = _worst(cells, found), where(cells, model__init_scale=1)
    gone = f"; {lost(cells)}" if lost(cells) else ""
    errors = f"; error {text(spread(at_one, ERROR), unit='%')} at 1" if at_one else ""
    errors += f", {worst}" if worst else ""
    return f"{norm_style(norm).name}: {len(found)} of {len(scales)} scales train ({_listed(found)}){errors}{gone}"


def _worst(cells: Sequence[CellResult], found: Sequence[float]) -> str:
    ends = [(value, spread(where(cells, model__init_scale=value), ERROR)) for value in found if value != 1]
    worst = max(((stat.mean, value, stat) for value, stat in ends if stat), default=None)
    return f"at most {show(worst[2])} % at {worst[1]:g}" if worst else ""


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "none"
