"""BatchNorm is what its paper defines, to the rounding of float64."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normzoo.claims._cells import lost, recorded, recordings, split
from normzoo.claims._checks import Finding
from normzoo.claims._draw import label, legend
from normzoo.report.checks import Check
from normzoo.report.style import BLACK, BLUE, GREEN, GREY, MARKERS, VERMILLION, norm_style
from normzoo.text import counted

LIMIT = 1e-12  # float64 carries 16 digits; sums over a few thousand values lose a few of them
COUNT = 12  # values to a channel of the worked example
_KINDS = ("dense", "conv")
_STATEMENTS: dict[str, tuple[str, ...]] = {
    "forward: Algorithm 1, over (N, C) and over (N, C, H, W)": ("forward_dense", "forward_conv"),
    "backward: the paper's chain rule is autograd's": ("backward_dense", "backward_conv"),
    "moving averages by their definitions: torch's momentum 0.1, the cumulative average": (
        "moving_average_torch",
        "moving_average_cumulative",
    ),
    "Caffe's moving average (0.999, two sums) is torch's with momentum 0.001, freed of its start": (
        "moving_average_caffe",
    ),
    "inference is a fixed affine map, which folds into the layer before it": ("inference_dense", "inference_conv"),
    "at weight = σ = √(var + eps), bias = μ it gives back its input": ("identity_dense", "identity_conv"),
    f"worked example of 3 images × 3 channels × 2 × 2, {COUNT} values to a channel": ("worked_example",),
    "a bias of the dense layer or convolution before it changes nothing and gets no gradient": tuple(
        f"bias_{what}_{kind}" for what in ("output", "gradient") for kind in _KINDS
    ),
    "BN((aW)u) = BN(Wu) at a vanishing eps, dense and convolution; Jacobian in u unchanged, in W divided by a": tuple(
        f"scale_{what}_{kind}" for what in ("output", "input_jacobian", "weight_jacobian") for kind in _KINDS
    ),
}
_SHORT = (
    "forward", "backward", "moving average", "Caffe's", "inference", "identity", "worked example", "bias", "scale",
)  # fmt: skip


def judge(cells: pd.DataFrame) -> Finding:
    """Judge each statement by its largest error over norms and seeds."""
    done = cells[cells.status == "ok"]
    counts = {record.metrics.get("values_a_channel") for record in done.record}
    checks = []
    for statement, metrics in _STATEMENTS.items():
        worst = _worst(cells, metrics)
        holds = None if worst is None else worst < LIMIT
        if "worked_example" in metrics and counts:
            holds = holds and counts == {COUNT}
        if len(done) < len(cells) and holds:  # of the others it is not known
            holds = None
        error = "no such cells" if worst is None else f"largest error {worst:.1g}"
        checks.append(Check(f"{statement}: error below {LIMIT:g}", holds, error + lost(cells, ", {}")).on(cells.record))
    worst = _worst(cells, [metric for metrics in _STATEMENTS.values() for metric in metrics])
    norms = ", ".join(map(str, split(cells, "norm")))
    n = done.seed.nunique()
    found = "nothing" if worst is None else f"largest of all errors {worst:.1g} in float64 ({counted(n, 'seed')})"
    return Finding(f"{norms}: {found}", checks)


def _worst(cells: pd.DataFrame, metrics: Sequence[str]) -> float | None:
    """Return the largest error; infinite where one was no finite number, None where nothing was measured."""
    done = [record.metrics for record in cells.record if record.status == "ok"]
    errors = [found.get(metric) for found in done for metric in metrics]
    return max((math.inf if error is None else error for error in errors), default=None)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the error of each statement, the moving averages, and what eps does to scale invariance."""
    figure.set_size_inches(7.2, 3.1)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1.1, 1))
    _errors(left, cells)
    if found := recordings(cells):
        _averages(middle, found[0][1])
    _departures(right, cells)


def _errors(axes: Axes, cells: pd.DataFrame) -> None:
    groups = split(cells, "norm")
    for i, (name, own) in enumerate(groups.items()):
        worst = [_worst(own, metrics) for metrics in _STATEMENTS.values()]
        rows = [row + 0.28 * (i - (len(groups) - 1) / 2) for row, x in enumerate(worst) if x is not None]
        xs = [max(x, 1e-17) for x in worst if x is not None]
        style = norm_style(name)
        looks: Any = {"color": style.color, "mfc": style.color if style.filled else "white", "label": name}
        if xs:
            axes.plot(xs, rows, ls="none", marker=MARKERS[i], ms=4, **looks)
    axes.axvline(LIMIT, color=GREY, ls=":", lw=1)
    axes.annotate(
        "limit", (LIMIT, -0.3), xytext=(-2, 0), ha="right", textcoords="offset points", fontsize=6, color=GREY
    )
    axes.set(xscale="log", ylim=(len(_SHORT) + 0.9, -0.8))
    axes.set_yticks(range(len(_SHORT)), _SHORT)
    label(axes, "Statement by statement", "Largest error, float64")
    legend(axes, loc="lower right", bbox_to_anchor=(0.94, 0), handletextpad=0.1, borderaxespad=0.2)


def _averages(axes: Axes, arrays: dict[str, list[float]]) -> None:
    names = {
        "torch": ("momentum 0.1 (torch)", BLUE, "-"),
        "fraction": ("0.999 from 0, as written", VERMILLION, "--"),
        "caffe": ("0.999, Caffe's two sums", GREEN, "-."),
        "cumulative": ("cumulative", BLACK, ":"),
    }
    for name, (title, color, dash) in names.items():
        path = arrays[f"running_mean_{name}"]
        axes.plot(range(1, len(path) + 1), path, color=color, ls=dash, lw=1.1, label=title)
    axes.axhline(float(arrays["true_mean"][0]), color=GREY, lw=0.8)
    axes.set(xscale="log", ylim=(-0.2, 5.4))
    label(axes, "Moving averages", "Batches", "Running mean (true mean 3)")
    axes.legend(loc="upper left")


def _departures(axes: Axes, cells: pd.DataFrame) -> None:
    """Draw a line a norm through the means over seeds, and a dot for each seed."""
    for i, (name, own) in enumerate(split(cells, "norm").items()):
        style = norm_style(name)
        scales, stats = recorded(own, "scales", lambda arrays: arrays["departure_with_eps"])
        if not scales:
            continue
        # The next one, which may be where the one before is, is a larger hollow marker around it.
        looks: Any = {"color": style.color, "marker": MARKERS[i], "ms": 4 + 3 * i, "mfc": "none" if i else style.color}
        axes.plot(scales, [stat.mean for stat in stats], lw=0.8, ls=style.dash, label=name, **looks)
        for scale, stat in zip(scales, stats, strict=True):
            axes.plot([scale] * stat.n, stat.values, ls="none", marker=".", ms=2.5, color=GREY)
    axes.set(xscale="log", yscale="log")
    label(axes, "What eps = 1e-5 leaves", "Scale a of the weights", "|BN((aW)u) − BN(Wu)|, largest")
    if axes.lines:
        axes.plot([], [], ls="none", marker=".", ms=2.5, color=GREY, label="single seeds")
    legend(axes, loc="upper right", fontsize=6)
