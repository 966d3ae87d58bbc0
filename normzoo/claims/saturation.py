"""Saturated sigmoids and tanhs, and gradients that vanish, with and without BatchNorm."""

import math
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import lost, recorded, show, split, where
from normzoo.claims._checks import Finding, exceeds, kept_low, last_share, of_arrays
from normzoo.claims._draw import (
    band,
    label,
    legend_above,
    log_scale,
    lost_by_norm,
    share_by_layer,
    share_by_step,
    styled,
)
from normzoo.report.checks import Check
from normzoo.report.style import norm_style
from normzoo.text import counted

WITHOUT, WITH = "identity", "batch_norm"
LEAST, FACTOR = 10.0, 3.0  # percent; the share is to be a third at most
DECADE = 1.0
LR, SCALE = "optimizer.base_lr", "model.init_scale"


def judge(cells: pd.DataFrame) -> Finding:
    """Judge saturation at the end, per activation, learning rate and scale of the start; and gradients at the start."""
    checks: list[Check] = []
    parts: list[str] = []
    for activation, own in split(cells, "model.activation").items():
        for scale, scaled in sorted(split(own, SCALE).items()):
            for lr, at in sorted(split(scaled, LR).items()):
                plain, bn = (last_share(where(at, norm=norm), "saturated") for norm in (WITHOUT, WITH))
                start = f"weights × {scale:g}, " if scale != 1 else ""
                setting = f"{activation}, {start}lr {lr:g}"
                checks.append(kept_low(f"{setting}: saturated at the end", plain, bn, LEAST, FACTOR))
                parts.append(f"{setting} {show(plain.stat)} → {show(bn.stat)} %{lost(at, ' ({})')}")
        usual = where(own, model__init_scale=1)
        # Taken before the first step, it is the same for a net that diverges later.
        high, low = (
            replace(of_arrays(where(usual, norm=norm), _decades), diverged=0, lost="") for norm in (WITH, WITHOUT)
        )
        what = "log10 of the first layer's gradient over the last one's at the start: higher with BatchNorm"
        checks.append(exceeds(f"{activation}: {what}", high, low, by=DECADE))
    found = f"saturated at the end without a norm → with BatchNorm: {'; '.join(parts)}"
    return Finding(f"{found} ({counted(cells.seed.nunique(), 'seed')})", checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw saturation by step and by layer, and gradients by layer, for each activation at the highest rate."""
    activations = split(cells, "model.activation")
    figure.set_size_inches(7.2, 6.2)
    panels = figure.subplots(3, max(len(activations), 1), squeeze=False)
    for (steps, layers, gradients), (activation, of_activation) in zip(panels.T, activations.items(), strict=False):
        highest = cells[LR].max()
        own = where(of_activation, optimizer__base_lr=highest)
        usual = where(own, model__init_scale=1)
        share_by_step(steps, usual, "saturated")
        for norm in (WITHOUT, WITH):
            larger = own[(own.norm == norm) & (own[SCALE] != 1)]
            share_by_step(steps, larger, "saturated", lw=0.7, alpha=0.6, label=None)
        share_by_layer(layers, usual, "saturated")
        for norm, arm in split(usual, "norm").items():
            curve = recorded(arm, "", lambda arrays: arrays["health_gradient_norms"][0])
            band(gradients, curve, **styled(norm_style(norm)))
        log_scale(gradients, "y")
        thin = "; thin: larger start" if len(usual) < len(own) else ""
        title = f"{activation}, lr {highest:g}{thin}{lost_by_norm(own)}"
        label(steps, title, "Optimizer step", "Saturated, mean (%)")
        label(layers, f"{activation}: by layer, at the end", "Activation", "Saturated (%)")
        label(gradients, f"{activation}: gradients before the first step", "Layer with weights", "Gradient norm")
        for axes in (steps, layers):
            axes.set_ylim(-3, 103)
        for axes in (layers, gradients):
            axes.set_xticks(range(1, 1 + max((len(line.get_xdata()) for line in axes.lines), default=1)))
    legend_above(figure, panels.flat)


def _decades(arrays: dict[str, Any]) -> float:
    norms = arrays["health_gradient_norms"][0]
    return math.log10(norms[0] / norms[-1]) if norms[0] > 0 and norms[-1] > 0 else math.nan
