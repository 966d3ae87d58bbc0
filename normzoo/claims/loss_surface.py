"""The loss around a trained network, on a plane of filter-normalized directions."""

import math
from typing import Any

import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from normzoo.claims._cells import recordings, text, where
from normzoo.claims._checks import Finding, outcome, times
from normzoo.recording import read_recording
from normzoo.report.style import norm_style
from normzoo.results import CellResult

NEAR = 0.5  # above the loss at the centre
_MODE = "probe.loss_surface.training_mode"
_BN = "BatchNorm, statistics of the point"


def judge(cells: pd.DataFrame) -> Finding:
    """Judge how much the loss rises over the plane, and how much of the plane is near the centre's loss."""
    arms = {
        "without a norm": _cells(cells, "identity", True),
        _BN: _cells(cells, "batch_norm", True),
        "BatchNorm, running statistics of the centre": _cells(cells, "batch_norm", False),
        "LayerNorm": _cells(cells, "layer_norm", True),
    }
    rise = {name: outcome(own, "surface_rise") for name, own in arms.items()}
    near = {name: outcome(own, _near) for name, own in arms.items()}
    none, bn, fixed, _ = rise.values()
    higher = "mean rise of the loss over the plane: higher without a norm than with BatchNorm"
    share = f"share of the plane within {NEAR} of the centre's loss: larger with BatchNorm than without"
    checks = [
        times(f"{higher} whose statistics follow the point", none, bn, 2),
        times(f"{higher} under running statistics", none, fixed, 2),
        times(share, near[_BN], near["without a norm"], 1.5, better="high"),
    ]
    parts = [
        f"{name}: mean rise {text(rise[name].stat, own)}, within {NEAR} of the centre "
        f"{text(near[name].stat, digits=0, unit='% of the plane')}"
        for name, own in arms.items()
        if len(own)
    ]
    return Finding("; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw contours of the first seed of each arm, on common levels."""
    figure.set_size_inches(7.2, 2.5)
    shown: list[tuple[str, CellResult, dict[str, Any]]] = []
    for norm in ("identity", "batch_norm", "layer_norm"):
        for follows, statistics in ((True, ", batch statistics"), (False, ", running statistics")):
            name = norm_style(norm).name + (statistics if norm == "batch_norm" else "")
            found = recordings(_cells(cells, norm, follows).sort_values("seed"))
            shown += [(name, *one) for one in found[:1]]
    if not shown:
        return
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    levels = [0.01 * 10 ** (i / 4) for i in range(20)]
    drawn: Any = None
    for axes, (name, record, arrays) in zip(panels, shown, strict=True):
        grid = arrays["surface_alphas"]
        losses = arrays["surface_losses"].clip(levels[0], levels[-1] * 0.999).T
        drawn = axes.contourf(grid, grid, losses, levels=levels, norm=LogNorm(levels[0], levels[-1]), cmap="viridis")
        axes.contour(grid, grid, losses, levels=levels[::2], colors="white", linewidths=0.3)
        axes.plot(0, 0, marker="+", color="white", ms=5)
        axes.set(aspect="equal", xlabel="d₁, in filter lengths", ylabel="d₂" if axes is panels[0] else "")
        axes.grid(visible=False)
        axes.set_title(f"{name}\nseed {record.seed}", loc="left", fontsize=7)
    bar = figure.colorbar(drawn, ax=list(panels), ticks=[0.01, 0.1, 1, 10, 100], format="%g", shrink=0.8)
    bar.set_label("Cross-entropy")


def _cells(cells: pd.DataFrame, norm: str, follows: bool) -> pd.DataFrame:
    cells = where(cells, norm=norm)
    fixed = cells[_MODE] == "false" if _MODE in cells else pd.Series(False, cells.index)
    return cells[fixed != follows]


def _near(record: CellResult) -> float:
    """Return the percentage of the plane whose loss is near that at the centre."""
    losses = read_recording(record.folder).get("surface_losses") if record.folder else None
    if losses is None:
        return math.nan
    side = len(losses) // 2
    return 100 * float((losses < losses[side, side] + NEAR).mean())
