"""Internal covariate shift by the gradient, and the drift of what activations are given."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normzoo.claims._cells import lost, recorded, recordings, show, split, where
from normzoo.claims._checks import Finding, exceeds, outcome
from normzoo.claims._draw import band, label, legend_above, styled
from normzoo.report.checks import Check
from normzoo.report.style import norm_style
from normzoo.text import counted

WITHOUT, WITH = "identity", "batch_norm"
LR = "optimizer.base_lr"
_MEASURES: dict[str, tuple[str, Any]] = {
    "‖G − G'‖₂, median": ("", lambda arrays: arrays["shift_distances"]),
    "‖G − G'‖ / ‖G‖, median": (
        "Relative to the gradient",
        lambda arrays: arrays["shift_distances"] / arrays["shift_gradient_norms"],
    ),
    "cos(G, G'), median": ("Angle between G and G'", lambda arrays: arrays["shift_cosines"]),
}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge the shift, the angle, and the drift where there are activations, for each net and learning rate."""
    checks: list[Check] = []
    parts: list[str] = []
    for name, of_model in _nets(cells).items():
        for lr, own in sorted(split(of_model, LR).items()):
            shift, cosine, drift = (
                [outcome(where(own, norm=norm), metric) for norm in (WITHOUT, WITH)]
                for metric in ("covariate_shift", "covariate_shift_cosine", "activation_drift")
            )
            at = f"{name}, lr {lr:g}"
            checks += [
                exceeds(f"{at}: ‖G − G'‖ is larger without a norm", *shift, digits=2),
                exceeds(f"{at}: cos(G, G') is larger with BatchNorm", *reversed(cosine), digits=2, better="high"),
            ]
            if name != "linear net":
                checks.append(exceeds(f"{at}: activations drift farther without a norm", *drift, digits=3))
            parts.append(
                f"{at}: ‖G − G'‖ {show(shift[0].stat, 2)} → {show(shift[1].stat, 2)}, "
                f"cos {show(cosine[0].stat, 2)} → {show(cosine[1].stat, 2)}{lost(own, ' ({})')}"
            )
    return Finding(
        f"without a norm → with BatchNorm: {'; '.join(parts)} ({counted(cells.seed.nunique(), 'seed')})", checks
    )


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw what activations are given over the training; shift, relative shift and angle by layer, for each net."""
    rows: list[tuple[str, pd.DataFrame, Any]] = []
    for name, of_model in _nets(cells).items():
        lr = of_model[LR].max()
        own, title = where(of_model, optimizer__base_lr=lr), f"{name}, lr {lr:g}"
        rows += [] if name == "linear net" else [(title, own, _distributions)]
        rows.append((title, own, _shifts))
    figure.set_size_inches(7.2, 0.7 + 1.9 * max(len(rows), 1))
    panels = figure.subplots(max(len(rows), 1), 3, squeeze=False)
    for row, (title, own, draw_row) in zip(panels, rows, strict=False):
        draw_row(row, own, title)
    legend_above(figure, panels.flat)


def _nets(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        "linear net" if (own.get("model.activation", own.model) == "none").any() else model: own
        for model, own in split(cells, "model").items()
    }


def _shifts(row: Sequence[Axes], cells: pd.DataFrame, title: str) -> None:
    for axes, (y, (name, measure)) in zip(row, _MEASURES.items(), strict=True):

        def median(arrays: Mapping[str, Any], measure: Any = measure) -> Any:
            return np.median(measure(arrays), axis=0)

        for norm, own in split(cells, "norm").items():
            band(axes, recorded(own, "", median), **styled(norm_style(norm), lw=1.1))
        label(axes, name or f"{title}: shift of the gradient", "Layer with weights", y, fontsize=7.5)


def _distributions(row: Sequence[Axes], cells: pd.DataFrame, title: str) -> None:
    """Draw the first, a middle and the last activation: median and the band of 70 % about it, the first seed a norm."""
    found = recordings(cells)
    count = found[0][1]["activation_quantiles"].shape[1] if found else 1
    for i, (axes, at) in enumerate(zip(row, (0, count // 2, count - 1), strict=True)):
        for norm in split(cells, "norm"):
            own = where(cells, norm=norm)
            first = recordings(own[own.seed == own.seed.min()][:1])
            if norm in (WITHOUT, WITH) and first:
                arrays, style = first[0][1], norm_style(norm)
                low, middle, high = arrays["activation_quantiles"][:, at, 1:4].T
                axes.plot(arrays["activation_step"], middle, color=style.color, ls=style.dash, lw=1.2)
                axes.fill_between(arrays["activation_step"], low, high, color=style.color, alpha=0.2, lw=0)
        axes.locator_params(axis="x", nbins=4)
        name = f"{'' if i else f'{title}: '}activation {at + 1} of {count}"
        label(axes, name, "Optimizer step", "Input: median, 15 to 85 %", fontsize=7.5)
