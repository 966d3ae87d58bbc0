"""Saturated sigmoids and tanhs, and gradients that vanish, with and without BatchNorm."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from normzoo.claims._cells import entry, lost, split, where
from normzoo.claims._compare import exceeds, show
from normzoo.claims._draw import legend_above
from normzoo.claims._finding import Check, Finding
from normzoo.claims._health import (
    gone_by_norm,
    gradients_by_layer,
    kept_low,
    last_share,
    over_cells,
    share_by_layer,
    share_by_step,
)
from normzoo.claims._recorded import Arrays
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITHOUT, WITH = "identity", "batch_norm"
LEAST, FACTOR = 10.0, 3.0  # percent; the share is to be a third at most
DECADE = 1.0


def judge(records: Sequence[CellResult]) -> Finding:
    """For each activation, learning rate and scale of the start: saturation at the end; and gradients at the start."""
    checks: list[Check] = []
    parts: list[str] = []
    for activation, cells in split(records, "model.activation").items():
        for scale, scaled in sorted(split(cells, "model.init_scale").items()):
            for lr, at in sorted(split(scaled, "optimizer.base_lr").items()):
                plain, bn = (last_share(where(at, norm=norm), "saturated") for norm in (WITHOUT, WITH))
                start = f"weights × {scale:g}, " if scale != 1 else ""
                setting = f"{activation}, {start}lr {lr:g}"
                checks.append(kept_low(f"{setting}: saturated at the end", plain, bn, LEAST, FACTOR))
                gone = lost(at)
                parts.append(f"{setting} {show(plain.stat)} → {show(bn.stat)} %{f' ({gone})' if gone else ''}")
        usual = where(cells, model__init_scale=1.0)
        # Taken before the first step, it is the same for a net that diverges later.
        high, low = (
            replace(over_cells(where(usual, norm=norm), _decades), diverged=0, lost="") for norm in (WITH, WITHOUT)
        )
        what = (
            f"{activation}: log10 of the first layer's gradient over the last one's at the start: higher with BatchNorm"
        )
        checks.append(exceeds(what, high, low, by=DECADE))
    seeds = len({record.seed for record in records})
    return Finding(f"saturated at the end without a norm → with BatchNorm: {'; '.join(parts)} (n = {seeds})", checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Saturation by step and by layer, and gradients by layer, for each activation at the highest rate."""
    activations = list(split(records, "model.activation"))
    figure.set_size_inches(7.2, 6.2)
    panels = figure.subplots(3, max(len(activations), 1), squeeze=False)
    highest = max((entry(record, "optimizer.base_lr") for record in records), default=None)
    for (steps, layers, gradients), activation in zip(panels.T, activations, strict=False):
        cells = where(records, model__activation=activation, optimizer__base_lr=highest)
        usual = where(cells, model__init_scale=1.0)
        share_by_step(steps, usual, "saturated")
        for norm in (WITHOUT, WITH):
            larger = [cell for cell in where(cells, norm=norm) if entry(cell, "model.init_scale") != 1]
            share_by_step(steps, larger, "saturated", lw=0.7, alpha=0.6, label=None)
        steps.set(xlabel="Optimizer step", ylabel="Saturated, mean (%)", ylim=(-3, 103))
        thin = "; thin: larger start" if len(usual) < len(cells) else ""
        steps.set_title(f"{activation}, lr {highest:g}{thin}{gone_by_norm(cells)}", loc="left")
        share_by_layer(layers, usual, "saturated")
        layers.set(xlabel="Activation", ylabel="Saturated (%)", ylim=(-3, 103))
        layers.set_title(f"{activation}: by layer, at the end", loc="left")
        gradients_by_layer(gradients, usual, 0)
        gradients.set(xlabel="Layer with weights", ylabel="Gradient norm")
        gradients.set_title(f"{activation}: gradients before the first step", loc="left")
        for axes in (layers, gradients):
            axes.set_xticks(range(1, 1 + max((len(line.get_xdata()) for line in axes.lines), default=1)))
    legend_above(figure, panels.flat)


def _decades(arrays: Arrays) -> float:
    norms = arrays["health_gradient_norms"][0]
    return math.log10(norms[0] / norms[-1]) if norms[0] > 0 and norms[-1] > 0 else math.nan
