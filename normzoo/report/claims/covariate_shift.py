"""Internal covariate shift by the gradient, and the drift of what activations are given."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from normzoo.report.claims._cells import entry, lost, split, spread, where
from normzoo.report.claims._compare import exceeds, show
from normzoo.report.claims._draw import band
from normzoo.report.claims._finding import Check, Finding
from normzoo.report.claims._recorded import Arrays, series
from normzoo.report.style import norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WITHOUT, WITH = "identity", "batch_norm"


def judge(records: Sequence[CellResult]) -> Finding:
    """For each net and learning rate: the shift, the angle, and the drift where there are activations."""
    checks: list[Check] = []
    parts: list[str] = []
    for model, of_model in split(records, "model").items():
        name = "linear net" if entry(of_model[0], "model.activation") == "none" else model
        for lr, cells in sorted(split(of_model, "optimizer.base_lr").items()):
            arms = {norm: where(cells, norm=norm) for norm in (WITHOUT, WITH)}
            shift, cosine, drift = (
                [spread(arm, metric) for arm in arms.values()]
                for metric in ("covariate_shift", "covariate_shift_cosine", "activation_drift")
            )
            at = f"{name}, lr {lr:g}"
            checks += [
                exceeds(f"{at}: ‖G − G'‖ is larger without a norm", *shift, digits=2),
                exceeds(f"{at}: cos(G, G') is larger with BatchNorm", *reversed(cosine), digits=2),
            ]
            if name != "linear net":
                checks.append(exceeds(f"{at}: activations drift farther without a norm", *drift, digits=3))
            gone = lost(cells)
            parts.append(
                f"{at}: ‖G − G'‖ {show(shift[0], 2)} → {show(shift[1], 2)}, "
                f"cos {show(cosine[0], 2)} → {show(cosine[1], 2)}{f' ({gone})' if gone else ''}"
            )
    seeds = len({record.seed for record in records})
    return Finding(f"without a norm → with BatchNorm: {'; '.join(parts)} (n = {seeds})", checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """What the last activation is given over the training, and shift and angle by layer."""
    models = split(records, "model")
    figure.set_size_inches(7.2, 2.5 + 2.1 * (len(models) > 1))
    panels = figure.subplots(max(len(models), 1), 3, squeeze=False)
    for (first, shifts, cosines), (model, of_model) in zip(panels, models.items(), strict=False):
        lr = max(entry(record, "optimizer.base_lr") for record in of_model)
        cells = where(of_model, optimizer__base_lr=lr)
        linear = entry(cells[0], "model.activation") == "none"
        title = f"{'linear net' if linear else model}, lr {lr:g}"
        if linear:
            _by_layer(first, cells, _relative)
            first.set(xlabel="Layer with weights", ylabel="‖G − G'‖ / ‖G‖, median")
            first.set_title(f"{title}: relative shift", loc="left")
        else:
            quantiles(first, cells)
            first.set_title(f"{title}: last activation", loc="left")
        _by_layer(shifts, cells, _shift)
        shifts.set(xlabel="Layer with weights", ylabel="‖G − G'‖, median")
        shifts.set_title("Shift of the gradient", loc="left")
        _by_layer(cosines, cells, _cosine)
        cosines.set(xlabel="Layer with weights", ylabel="cos(G, G'), median")
        cosines.set_title("Angle between G and G'", loc="left")
        cosines.legend(loc="lower left")


def quantiles(axes: "Axes", records: Sequence[CellResult]) -> None:
    """Quantiles 0.15, 0.5 and 0.85 of the last activation's input over the training, the first seed of each norm."""
    for norm, cells in split(records, "norm").items():
        if norm not in (WITHOUT, WITH):
            continue
        style, one = norm_style(norm), [min(cells, key=lambda cell: cell.seed)]
        low, middle, high = (series(one, "activation_step", partial(_quantile, i)) for i in (1, 2, 3))
        if middle[0]:
            axes.plot(middle[0], [stat.mean for stat in middle[1]], color=style.color, ls=style.dash, lw=1.2)
            edges = [stat.mean for stat in low[1]], [stat.mean for stat in high[1]]
            axes.fill_between(low[0], *edges, color=style.color, alpha=0.2, lw=0, label=style.name)
    axes.set(xlabel="Optimizer step", ylabel="Input, quantiles .15 .5 .85")


def _quantile(i: int, arrays: Arrays) -> list[float]:
    return [float(value) for value in arrays["activation_quantiles"][:, -1, i]]


def _by_layer(axes: "Axes", records: Sequence[CellResult], value: Callable[[Arrays], Sequence[float]]) -> None:
    for norm, cells in split(records, "norm").items():
        style = norm_style(norm)
        looks: dict[str, Any] = {"color": style.color, "ls": style.dash, "marker": style.marker, "ms": 3, "lw": 1.1}
        band(axes, *series(cells, "", value), **looks, label=style.name)


def _median(values: Sequence[Sequence[float]]) -> list[float]:
    import numpy as np

    return [float(value) for value in np.median(np.asarray(values), axis=0)]


def _shift(arrays: Arrays) -> list[float]:
    return _median(arrays["shift_distances"])


def _cosine(arrays: Arrays) -> list[float]:
    return _median(arrays["shift_cosines"])


def _relative(arrays: Arrays) -> list[float]:
    return _median(arrays["shift_distances"] / arrays["shift_gradient_norms"])
