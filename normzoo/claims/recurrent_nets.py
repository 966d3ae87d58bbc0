"""In a recurrent net BatchNorm needs statistics of its own for every time step; LayerNorm needs no such thing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import Outcome, curves, outcome, spread, text, where
from normzoo.claims._compare import exceeds, judged, on_arms, show
from normzoo.claims._draw import band, log_scale, whole_ticks
from normzoo.claims._finding import Check, Finding
from normzoo.claims._statistics import BATCH, RUNNING, draw_arms, name_kinds
from normzoo.report.style import BLACK, GREEN, ORANGE, VERMILLION
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLOSE = 2.0  # points: how near LayerNorm is to come to BatchNorm with statistics for every step
PER_STEP, SHARED, LAYER, NONE = "BatchNorm, per step", "BatchNorm, shared", "LayerNorm", "no norm"
_LOOKS: Mapping[str, Mapping[str, Any]] = {
    PER_STEP: {"color": VERMILLION, "marker": "o", "ls": "-"},
    SHARED: {"color": ORANGE, "marker": "D", "ls": "--"},
    LAYER: {"color": GREEN, "marker": "s", "ls": "--"},
    NONE: {"color": BLACK, "marker": "x", "ls": ":"},
}


def judge(records: Sequence[CellResult]) -> Finding:
    """The error with statistics for every step against shared ones, and LayerNorm's against both."""
    arms = _arms(records)
    own, shared = (outcome(arms[name], RUNNING) for name in (PER_STEP, SHARED))
    layer, plain = (outcome(arms[name], RUNNING) for name in (LAYER, NONE))
    checks = [
        exceeds("with BN the error is higher where all steps share their running statistics", shared, own),
        exceeds(
            "it is the running statistics: shared ones give a higher error than the batch's own do",
            shared,
            outcome(arms[SHARED], BATCH),
        ),
        _near(f"LayerNorm, without any such statistics, comes within {CLOSE:g} points of BN per step", layer, own),
        exceeds("without a norm the error is higher than with BN per step", plain, own),
    ]
    parts = [f"{name}: {text(spread(cells, RUNNING), cells, unit='%')}" for name, cells in arms.items() if cells]
    by_batch = spread(arms[SHARED], BATCH)
    if by_batch:
        parts.append(f"{SHARED}, tested with the batch's statistics: {show(by_batch)} %")
    return Finding("validation error: " + "; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """The error by kind of statistics, and on its way."""
    arms = _arms(records)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    draw_arms(left, list(arms.items()))
    name_kinds(left)
    left.set_title("An LSTM over the rows of a digit", loc="left")
    for name, cells in arms.items():
        band(right, *curves(cells, "epoch", RUNNING), **_LOOKS[name], ms=3, lw=1.2, label=name)
    if right.has_data():
        log_scale(right, "y")
        right.legend(fontsize=6.5)
    whole_ticks(right)
    right.set(xlabel="Epoch", ylabel="Validation error (%)")
    right.set_title("Running statistics", loc="left")


def _arms(records: Sequence[CellResult]) -> Mapping[str, list[CellResult]]:
    bn = where(records, norm="batch_norm")
    return {
        PER_STEP: where(bn, model__per_step=True),
        SHARED: where(bn, model__per_step=False),
        LAYER: where(records, norm="layer_norm"),
        NONE: where(records, norm="identity"),
    }


def _near(what: str, one: Outcome, other: Outcome) -> Check:
    found = f"{show(one)} against {show(other)} %"
    near = judged(one, other, lambda one, other: one.mean - other.mean <= CLOSE)
    return on_arms(Check(what, near, found), one, other)
