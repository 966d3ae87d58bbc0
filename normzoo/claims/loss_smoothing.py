"""The loss and its gradient along the way of the optimizer, with and without norms."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normzoo.claims._cells import Curve, lost, recorded, split, text
from normzoo.claims._checks import Finding, Outcome, outcome, times
from normzoo.claims._draw import band, legend_above, log_scale
from normzoo.report.style import norm_style

WITHOUT, WITH = "identity", "batch_norm"
_MEASURES = {
    # metric: what it is, the factor asked for, digits
    "landscape_loss_range": ("median range of the loss along the gradient", 2.0, 2),
    "landscape_gradient_distance": ("median of the largest change of the gradient", 2.0, 1),
    "landscape_beta_max": ("largest effective β-smoothness", 1.5, 0),
}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge each measure without a norm against that with BatchNorm."""
    arms = split(cells, "norm")
    checks, parts = [], []
    for metric, (what, factor, digits) in _MEASURES.items():
        found = {norm: outcome(own, metric) for norm, own in arms.items()}
        plain, bn = (found.get(norm, Outcome()) for norm in (WITHOUT, WITH))
        checks.append(times(f"{what}: larger without a norm than with BatchNorm", plain, bn, factor, digits=digits))
        told = (f"{norm_style(norm).name} {text(found[norm].stat, own, digits)}" for norm, own in arms.items())
        parts.append(f"{what}: {', '.join(told)}")
    return Finding("; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw bands of the loss, of the gradient's change and of β over the training, a column a norm."""
    arms = split(cells, "norm")
    plain = arms.get(WITHOUT, cells[:0])
    figure.set_size_inches(7.2, 5.0)
    panels = figure.subplots(3, max(len(arms), 1), squeeze=False, sharex=True, sharey="row")
    for (losses, changes, betas), (norm, own) in zip(panels.T, arms.items(), strict=False):
        style = norm_style(norm)
        for axes, name in ((losses, "landscape_losses"), (changes, "landscape_gradient_distances")):
            if norm != WITHOUT:
                _edges(axes, plain, WITHOUT, name, filled=False)
            _edges(axes, own, norm, name)
        if norm != WITHOUT:
            steps, stats = _betas(plain)
            looks = {"color": norm_style(WITHOUT).color, "label": "without a norm, for comparison"}
            betas.plot(steps, [stat.mean for stat in stats], lw=0.6, ls=":", **looks)
        band(betas, _betas(own), color=style.color, lw=1.2)
        losses.set_title(style.name + lost(own, " ({})"), loc="left")
        betas.set_xlabel("Optimizer step")
    names = ("Loss along the gradient,\nmin to max", "‖∇L(w − ηg) − g‖₂,\nmin to max", "Effective\nβ-smoothness")
    for row, name in zip(panels, names, strict=True):
        row[0].set_ylabel(name)
        if any(axes.lines for axes in row):
            log_scale(row[0], "y")
    legend_above(figure, panels.flat)


def _betas(cells: pd.DataFrame) -> Curve:
    return recorded(cells, "landscape_step", lambda arrays: arrays["landscape_beta"])


def _edges(axes: Axes, cells: pd.DataFrame, norm: str, name: str, *, filled: bool = True) -> None:
    """Draw a band from the least to the largest value of each measurement; means over seeds of both."""
    steps, low = recorded(cells, "landscape_step", lambda arrays: arrays[name].min(1))
    same, high = recorded(cells, "landscape_step", lambda arrays: arrays[name].max(1))
    if not steps or steps != same:
        return
    color = norm_style(norm).color
    edges = [stat.mean for stat in low], [stat.mean for stat in high]
    if filled:
        axes.fill_between(steps, *edges, color=color, alpha=0.45, lw=0)
    for edge in edges:
        axes.plot(steps, edge, color=color, lw=0.7 if filled else 0.6, ls="-" if filled else ":")
