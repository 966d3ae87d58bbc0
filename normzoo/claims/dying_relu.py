"""Channels whose ReLU no image activates any more, with and without BatchNorm."""

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import show, split, spread, text, where
from normzoo.claims._checks import Finding, kept_low, last_share
from normzoo.claims._draw import label, legend_above, lost_by_norm, share_by_layer, share_by_step
from normzoo.report.checks import Check

WITHOUT, WITH = "identity", "batch_norm"
LEAST, FACTOR = 5.0, 5.0  # percent; the share is to be a fifth at most


def judge(cells: pd.DataFrame) -> Finding:
    """Judge the share of dead channels at the end, for each learning rate."""
    checks: list[Check] = []
    parts: list[str] = []
    for lr, own in sorted(split(cells, "optimizer.base_lr").items()):
        arms = [where(own, norm=norm) for norm in (WITHOUT, WITH)]
        plain, bn = (last_share(arm, "dead") for arm in arms)
        checks.append(kept_low(f"lr {lr:g}: dead channels at the end", plain, bn, LEAST, FACTOR))
        errors = " → ".join(text(spread(arm, "val_error_running"), arm, unit="%") for arm in arms)
        parts.append(f"lr {lr:g}: dead {show(plain.stat)} → {show(bn.stat)} %, error {errors}")
    return Finding(f"without a norm → with BatchNorm: {'; '.join(parts)}", checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw dead channels by step at each learning rate, and by layer at the end."""
    rates = sorted(split(cells, "optimizer.base_lr").items())
    several = len(rates) > 1
    figure.set_size_inches(7.2, 4.6 if several else 2.6)
    shape = (2, len(rates)) if several else (1, 2)
    panels = figure.subplots(*shape, squeeze=False, sharey=True).reshape(2, -1)
    for (above, below), (lr, own) in zip(panels.T, rates, strict=False):
        share_by_step(above, own, "dead")
        above.set_ylim(-3, 103)
        label(above, f"lr {lr:g}{lost_by_norm(own)}", "Optimizer step", "Dead, mean of layers (%)", fontsize=7.5)
        share_by_layer(below, own, "dead")
        label(below, f"lr {lr:g}, at the end", "Convolution", "Dead channels (%)", fontsize=7.5)
    legend_above(figure, panels.flat)
