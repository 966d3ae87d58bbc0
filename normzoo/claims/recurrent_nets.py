"""In a recurrent net BatchNorm needs statistics of its own for every time step; LayerNorm needs no such thing."""

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import curves, show, spread, text, where
from normzoo.claims._checks import Finding, exceeds, judged, on_arms, outcome
from normzoo.claims._draw import BATCH, RUNNING, band, draw_kinds, label, log_scale, styled, whole_ticks
from normzoo.report.checks import Check
from normzoo.report.style import BLACK, GREEN, ORANGE, VERMILLION, Style

CLOSE = 2.0  # points: how near LayerNorm is to come to BatchNorm with statistics for every step
PER_STEP, SHARED, LAYER, NONE = "BatchNorm, per step", "BatchNorm, shared", "LayerNorm", "no norm"
_COLORS = {PER_STEP: (VERMILLION, "o", "-"), SHARED: (ORANGE, "D", "--")}
_COLORS |= {LAYER: (GREEN, "s", "--"), NONE: (BLACK, "x", ":")}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge the error with statistics for every step against shared ones, and LayerNorm's against both."""
    arms = _arms(cells)
    own, shared, layer, plain = (outcome(arm, RUNNING) for arm in arms.values())
    by_batch = outcome(arms[SHARED], BATCH)
    close = f"LayerNorm, without any such statistics, comes within {CLOSE:g} points of BN per step"
    near = judged(layer, own, lambda layer, own: layer.mean - own.mean <= CLOSE)
    checks = [
        exceeds("with BN the error is higher where all steps share their running statistics", shared, own),
        exceeds(
            "it is the running statistics: shared ones give a higher error than the batch's own do", shared, by_batch
        ),
        on_arms(Check(close, near, f"{layer.show()} against {own.show()} %"), layer, own),
        exceeds("without a norm the error is higher than with BN per step", plain, own),
    ]
    parts = [f"{name}: {text(spread(arm, RUNNING), arm, unit='%')}" for name, arm in arms.items() if len(arm)]
    if by_batch.stat:
        parts.append(f"{SHARED}, tested with the batch's statistics: {show(by_batch.stat)} %")
    return Finding("validation error: " + "; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the error by kind of statistics, and by epoch."""
    arms = _arms(cells)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    draw_kinds(left, arms)
    left.set_title("An LSTM over the rows of a digit", loc="left")
    for name, arm in arms.items():
        band(right, curves(arm, "epoch", RUNNING), **styled(Style(name, *_COLORS[name])))
    if right.has_data():
        log_scale(right, "y")
        right.legend(fontsize=6.5)
    whole_ticks(right)
    label(right, "Running statistics", "Epoch", "Validation error (%)")


def _arms(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        PER_STEP: where(cells, norm="batch_norm", model__per_step="true"),
        SHARED: where(cells, norm="batch_norm", model__per_step="false"),
        LAYER: where(cells, norm="layer_norm"),
        NONE: where(cells, norm="identity"),
    }
