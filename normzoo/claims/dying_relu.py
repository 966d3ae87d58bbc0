"""Channels whose ReLU no image activates any more, with and without BatchNorm."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import split, spread, text, where
from normzoo.claims._compare import show
from normzoo.claims._draw import legend_above
from normzoo.claims._finding import Check, Finding
from normzoo.claims._health import gone_by_norm, kept_low, last_share, share_by_layer, share_by_step
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITHOUT, WITH = "identity", "batch_norm"
LEAST, FACTOR = 5.0, 5.0  # percent; the share is to be a fifth at most


def judge(records: Sequence[CellResult]) -> Finding:
    """For each learning rate: the share of dead channels at the end."""
    checks: list[Check] = []
    parts: list[str] = []
    for lr, cells in sorted(split(records, "optimizer.base_lr").items()):
        arms = {norm: where(cells, norm=norm) for norm in (WITHOUT, WITH)}
        plain, bn = (last_share(arm, "dead") for arm in arms.values())
        checks.append(kept_low(f"lr {lr:g}: dead channels at the end", plain, bn, LEAST, FACTOR))
        errors = (text(spread(arm, "val_error_running"), arm, unit="%") for arm in arms.values())
        parts.append(f"lr {lr:g}: dead {show(plain.stat)} → {show(bn.stat)} %, error {' → '.join(errors)}")
    return Finding(f"without a norm → with BatchNorm: {'; '.join(parts)}", checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Dead channels by step at each learning rate, and by layer at the end."""
    rates = sorted(split(records, "optimizer.base_lr").items())
    several = len(rates) > 1
    figure.set_size_inches(7.2, 4.6 if several else 2.6)
    shape = (2, len(rates)) if several else (1, 2)
    panels = figure.subplots(*shape, squeeze=False, sharey=True).reshape(2, -1)
    for (above, below), (lr, cells) in zip(panels.T, rates, strict=False):
        share_by_step(above, cells, "dead")
        above.set(xlabel="Optimizer step", ylabel="Dead, mean of layers (%)", ylim=(-3, 103))
        above.set_title(f"lr {lr:g}{gone_by_norm(cells)}", loc="left", fontsize=7.5)
        share_by_layer(below, cells, "dead")
        below.set(xlabel="Convolution", ylabel="Dead channels (%)")
        below.set_title(f"lr {lr:g}, at the end", loc="left", fontsize=7.5)
    legend_above(figure, panels.flat)
