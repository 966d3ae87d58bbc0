"""Internal covariate shift by the gradient, and the drift of what activations are given."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import entry, lost, outcome, split, where
from normzoo.claims._compare import exceeds, show
from normzoo.claims._draw import band, legend_above
from normzoo.claims._finding import Check, Finding
from normzoo.claims._recorded import Arrays, recordings, series
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
                [outcome(arm, metric) for arm in arms.values()]
                for metric in ("covariate_shift", "covariate_shift_cosine", "activation_drift")
            )
            at = f"{name}, lr {lr:g}"
            checks += [
                exceeds(f"{at}: ‖G − G'‖ is larger without a norm", *shift, digits=2),
                exceeds(f"{at}: cos(G, G') is larger with BatchNorm", *reversed(cosine), digits=2, better="high"),
            ]
            if name != "linear net":
                checks.append(exceeds(f"{at}: activations drift farther without a norm", *drift, digits=3))
            gone = lost(cells)
            parts.append(
                f"{at}: ‖G − G'‖ {show(shift[0].stat, 2)} → {show(shift[1].stat, 2)}, "
                f"cos {show(cosine[0].stat, 2)} → {show(cosine[1].stat, 2)}{f' ({gone})' if gone else ''}"
            )
    seeds = len({record.seed for record in records})
    return Finding(f"without a norm → with BatchNorm: {'; '.join(parts)} (n = {seeds})", checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """What activations are given over the training; shift, relative shift and angle by layer, for each net."""
    rows: list[tuple[str, list[CellResult], bool]] = []
    for model, of_model in split(records, "model").items():
        lr = max(entry(record, "optimizer.base_lr") for record in of_model)
        cells = where(of_model, optimizer__base_lr=lr)
        linear = entry(cells[0], "model.activation") == "none"
        title = f"{'linear net' if linear else model}, lr {lr:g}"
        rows += [] if linear else [(title, cells, True)]
        rows.append((title, cells, False))
    figure.set_size_inches(7.2, 0.7 + 1.9 * max(len(rows), 1))
    panels = figure.subplots(max(len(rows), 1), 3, squeeze=False)
    for row, (title, cells, distributions) in zip(panels, rows, strict=False):
        if distributions:
            _distributions(row, cells, title)
            continue
        measures = (
            (_shift, f"{title}: shift of the gradient", "‖G − G'‖₂, median"),
            (_relative, "Relative to the gradient", "‖G − G'‖ / ‖G‖, median"),
            (_cosine, "Angle between G and G'", "cos(G, G'), median"),
        )
        for axes, (measure, name, label) in zip(row, measures, strict=True):
            _by_layer(axes, cells, measure)
            axes.set(xlabel="Layer with weights", ylabel=label)
            axes.set_title(name, loc="left", fontsize=7.5)
    legend_above(figure, panels.flat)


def _distributions(row: Sequence["Axes"], records: Sequence[CellResult], title: str) -> None:
    """The first, a middle and the last activation."""
    found = recordings(records)
    count = found[0][1]["activation_quantiles"].shape[1] if found else 1
    for i, (axes, at) in enumerate(zip(row, (0, count // 2, count - 1), strict=True)):
        quantiles(axes, records, at)
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(f"{'' if i else f'{title}: '}activation {at + 1} of {count}", loc="left", fontsize=7.5)


def quantiles(axes: "Axes", records: Sequence[CellResult], at: int) -> None:
    """Median of an activation's input over the training, and the band of 70 % about it, the first seed of each norm."""
    for norm, cells in split(records, "norm").items():
        if norm not in (WITHOUT, WITH):
            continue
        style, one = norm_style(norm), [min(cells, key=lambda cell: cell.seed)]
        low, middle, high = (series(one, "activation_step", partial(_quantile, at, i)) for i in (1, 2, 3))
        if middle[0]:
            axes.plot(middle[0], [stat.mean for stat in middle[1]], color=style.color, ls=style.dash, lw=1.2)
            edges = [stat.mean for stat in low[1]], [stat.mean for stat in high[1]]
            axes.fill_between(low[0], *edges, color=style.color, alpha=0.2, lw=0)
    axes.set(xlabel="Optimizer step", ylabel="Input: median, 15 to 85 %")


def _quantile(at: int, i: int, arrays: Arrays) -> list[float]:
    return [float(value) for value in arrays["activation_quantiles"][:, at, i]]


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
