"""The loss and its gradient along the way of the optimizer, with and without norms."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import Outcome, lost, outcome, split, text
from normzoo.claims._compare import times
from normzoo.claims._draw import band, legend_above, log_scale
from normzoo.claims._finding import Finding
from normzoo.claims._recorded import Arrays, series
from normzoo.report.style import norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WITHOUT, WITH = "identity", "batch_norm"
_PLAIN = "without a norm, for comparison"
_MEASURES = {
    # metric: what it is, the factor asked for, digits
    "landscape_loss_range": ("median range of the loss along the gradient", 2.0, 2),
    "landscape_gradient_distance": ("median of the largest change of the gradient", 2.0, 1),
    "landscape_beta_max": ("largest effective β-smoothness", 1.5, 0),
}


def judge(records: Sequence[CellResult]) -> Finding:
    """Each measure without a norm against that with BatchNorm."""
    arms = split(records, "norm")
    checks, parts = [], []
    for metric, (what, factor, digits) in _MEASURES.items():
        stats = {norm: outcome(cells, metric) for norm, cells in arms.items()}
        plain, bn = (stats.get(norm, Outcome()) for norm in (WITHOUT, WITH))
        checks.append(times(f"{what}: larger without a norm than with BatchNorm", plain, bn, factor, digits=digits))
        told = (f"{norm_style(norm).name} {text(found.stat, arms[norm], digits)}" for norm, found in stats.items())
        parts.append(f"{what}: {', '.join(told)}")
    return Finding("; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Bands of the loss, of the gradient's change and of β over the training, a column a norm."""
    arms = split(records, "norm")
    figure.set_size_inches(7.2, 5.0)
    panels = figure.subplots(3, max(len(arms), 1), squeeze=False, sharex=True, sharey="row")
    for (losses, changes, betas), (norm, cells) in zip(panels.T, arms.items(), strict=False):
        style, gone = norm_style(norm), lost(cells)
        for axes, name in ((losses, "landscape_losses"), (changes, "landscape_gradient_distances")):
            if norm != WITHOUT:
                _edges(axes, arms.get(WITHOUT, ()), name, filled=False)
            _edges(axes, cells, name)
        if norm != WITHOUT:
            xs, plain = series(arms.get(WITHOUT, ()), "landscape_step", _beta)
            betas.plot(xs, [stat.mean for stat in plain], color=norm_style(WITHOUT).color, lw=0.6, ls=":", label=_PLAIN)
        band(betas, *series(cells, "landscape_step", _beta), color=style.color, lw=1.2)
        losses.set_title(f"{style.name}{f' ({gone})' if gone else ''}", loc="left")
        betas.set_xlabel("Optimizer step")
    labels = ("Loss along the gradient,\nmin to max", "‖∇L(w − ηg) − g‖₂,\nmin to max", "Effective\nβ-smoothness")
    for row, label in zip(panels, labels, strict=True):
        row[0].set_ylabel(label)
        if any(axes.lines for axes in row):
            log_scale(row[0], "y")
    legend_above(figure, panels.flat)


def _beta(arrays: Arrays) -> Sequence[float]:
    return [float(value) for value in arrays["landscape_beta"]]


def _edges(axes: "Axes", cells: Sequence[CellResult], name: str, *, filled: bool = True) -> None:
    """A band from the least to the largest value over the points of each measurement; means over seeds of both."""
    low = series(cells, "landscape_step", lambda arrays: arrays[name].min(1))
    high = series(cells, "landscape_step", lambda arrays: arrays[name].max(1))
    if not low[0] or low[0] != high[0]:
        return
    color = norm_style(cells[0].config["norm"]["name"]).color
    edges = [stat.mean for stat in low[1]], [stat.mean for stat in high[1]]
    if filled:
        axes.fill_between(low[0], *edges, color=color, alpha=0.45, lw=0)
    for edge in edges:
        axes.plot(low[0], edge, color=color, lw=0.7 if filled else 0.6, ls="-" if filled else ":")
