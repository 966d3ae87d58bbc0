"""The loss around a trained network, on a plane of filter-normalized directions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import entry, outcome, text, where
from normzoo.claims._compare import times
from normzoo.claims._finding import Finding
from normzoo.claims._recorded import recordings
from normzoo.report.style import norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAR = 0.5  # above the loss at the centre
_MODE = "probe.loss_surface.training_mode"


def judge(records: Sequence[CellResult]) -> Finding:
    """How much the loss rises over the plane, and how much of the plane is near the centre's loss."""
    arms = {
        "without a norm": _cells(records, "identity", True),
        "BatchNorm, statistics of the point": _cells(records, "batch_norm", True),
        "BatchNorm, running statistics of the centre": _cells(records, "batch_norm", False),
        "LayerNorm": _cells(records, "layer_norm", True),
    }
    rise = {name: outcome(cells, "surface_rise") for name, cells in arms.items()}
    near = {name: outcome(cells, lambda cell: 100 * _near(cell)) for name, cells in arms.items()}
    none, bn, fixed, _ = rise.values()
    higher = "mean rise of the loss over the plane: higher without a norm than with BatchNorm"
    checks = [
        times(f"{higher} whose statistics follow the point", none, bn, 2),
        times(f"{higher} under running statistics", none, fixed, 2),
        times(
            f"share of the plane within {NEAR} of the centre's loss: larger with BatchNorm than without",
            near["BatchNorm, statistics of the point"],
            near["without a norm"],
            1.5,
            better="high",
        ),
    ]
    parts = [
        f"{name}: mean rise {text(rise[name].stat, cells)}, within {NEAR} of the centre "
        f"{text(near[name].stat, digits=0, unit='% of the plane')}"
        for name, cells in arms.items()
        if cells
    ]
    return Finding("; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Contours of the first seed of each arm, on common levels."""
    from matplotlib.colors import LogNorm

    arms: list[tuple[str, list[CellResult]]] = []
    for norm in ("identity", "batch_norm", "layer_norm"):
        for follows in (True, False):
            cells = _cells(records, norm, follows)
            name = norm_style(norm).name
            if norm == "batch_norm":
                name += ", batch statistics" if follows else ", running statistics"
            arms.append((name, cells))
    found = [(name, recordings(sorted(cells, key=lambda cell: cell.seed))[:1]) for name, cells in arms if cells]
    shown = [(name, *one) for name, ones in found for one in ones]
    figure.set_size_inches(7.2, 2.5)
    if not shown:
        return
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    levels = [0.01 * 10 ** (i / 4) for i in range(20)]
    drawn: Any = None
    for ax, (name, cell, arrays) in zip(axes, shown, strict=True):
        grid = arrays["surface_alphas"]
        losses = arrays["surface_losses"].clip(levels[0], levels[-1] * 0.999)
        drawn = ax.contourf(grid, grid, losses.T, levels=levels, norm=LogNorm(levels[0], levels[-1]), cmap="viridis")
        ax.contour(grid, grid, losses.T, levels=levels[::2], colors="white", linewidths=0.3)
        ax.plot(0, 0, marker="+", color="white", ms=5)
        ax.set_aspect("equal")
        ax.grid(visible=False)
        ax.set(xlabel="d₁, in filter lengths", ylabel="d₂" if ax is axes[0] else "")
        ax.set_title(f"{name}\nseed {cell.seed}", loc="left", fontsize=7)
    bar = figure.colorbar(drawn, ax=list(axes), ticks=[0.01, 0.1, 1, 10, 100], format="%g", shrink=0.8)
    bar.set_label("Cross-entropy")


def _cells(records: Sequence[CellResult], norm: str, follows: bool) -> list[CellResult]:
    return [record for record in where(records, norm=norm) if entry(record, _MODE, True) is follows]


def _near(cell: CellResult) -> float:
    for _, arrays in recordings([cell]):
        losses = arrays["surface_losses"]
        side = len(losses) // 2
        return float((losses < losses[side, side] + NEAR).mean())
    return float("nan")
