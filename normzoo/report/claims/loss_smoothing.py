"""The loss and its gradient along the way of the optimizer, with and without norms."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.report.claims._cells import split, spread, text, where
from normzoo.report.claims._compare import times
from normzoo.report.claims._draw import band, log_scale
from normzoo.report.claims._finding import Finding
from normzoo.report.claims._recorded import series
from normzoo.report.style import norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WITHOUT, WITH = "identity", "batch_norm"
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
        stats = {norm: spread(cells, metric) for norm, cells in arms.items()}
        sides = stats.get(WITHOUT), stats.get(WITH)
        checks.append(times(f"{what}: larger without a norm than with BatchNorm", *sides, factor, digits=digits))
        found = (f"{norm} {text(stat, arms[norm], digits)}" for norm, stat in stats.items())
        parts.append(f"{what}: {', '.join(found)}")
    return Finding("; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Bands of loss and of the gradient's change over the training, and β."""
    figure.set_size_inches(7.2, 2.7)
    losses, changes, betas = figure.subplots(1, 3)
    for norm in (WITHOUT, WITH):
        cells = where(records, norm=norm)
        _edges(losses, cells, "landscape_losses")
        _edges(changes, cells, "landscape_gradient_distances")
    for norm, cells in split(records, "norm").items():
        style = norm_style(norm)
        line = series(cells, "landscape_step", lambda arrays: arrays["landscape_beta"])
        band(betas, *line, color=style.color, ls=style.dash, lw=1.1, label=style.name)
    for axes, name, label in (
        (losses, "Loss along the gradient", "Cross-entropy, min to max"),
        (changes, "Change of the gradient", "‖∇L(w − ηg) − g‖₂, min to max"),
        (betas, "Effective β-smoothness", "β"),
    ):
        axes.set(xlabel="Optimizer step", ylabel=label)
        axes.set_title(name, loc="left")
        if axes.has_data():
            log_scale(axes, "y")
            axes.legend(loc="best")


def _edges(axes: "Axes", cells: Sequence[CellResult], name: str) -> None:
    """A band from the least to the largest value over the points of each measurement; means over seeds of both."""
    if not cells:
        return
    low = series(cells, "landscape_step", lambda arrays: arrays[name].min(1))
    high = series(cells, "landscape_step", lambda arrays: arrays[name].max(1))
    style = norm_style(cells[0].config["norm"]["name"])
    if low[0]:
        edges = [stat.mean for stat in low[1]], [stat.mean for stat in high[1]]
        axes.fill_between(low[0], *edges, color=style.color, alpha=0.45, lw=0, label=style.name)
        for edge in edges:
            axes.plot(low[0], edge, color=style.color, lw=0.7)
