"""BatchNorm is what its paper defines, to the rounding of float64."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import lost, split
from normzoo.claims._draw import legend
from normzoo.claims._finding import Check, Finding
from normzoo.claims._recorded import series
from normzoo.recording import read_recording
from normzoo.report.style import BLACK, BLUE, GREEN, GREY, MARKERS, VERMILLION, norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def judge(records: Sequence[CellResult]) -> Finding:
    """Each statement holds if its largest error, over norms and seeds, is below the limit."""
    checks = []
    for statement, metrics in _STATEMENTS.items():
        worst = _worst(records, metrics)
        holds = None if worst is None else worst < LIMIT
        counts = {record.metrics.get("values_a_channel") for record in records if record.status == "ok"}
        if "worked_example" in metrics and counts:
            holds = holds and counts == {COUNT}
        error = "no such cells" if worst is None else f"largest error {worst:.1g}"
        gone = lost(records)
        if gone and holds:  # of the others it is not known
            holds = None
        checks.append(
            Check(f"{statement}: error below {LIMIT:g}", holds, f"{error}{f', {gone}' if gone else ''}").on(records)
        )
    worst = _worst(records, [metric for metrics in _STATEMENTS.values() for metric in metrics])
    norms = ", ".join(map(str, split(records, "norm")))
    seeds = len({record.seed for record in records if record.status == "ok"})
    found = "nothing" if worst is None else f"largest of all errors {worst:.1g} in float64 (n = {seeds})"
    return Finding(f"{norms}: {found}", checks)


def _worst(records: Sequence[CellResult], metrics: Sequence[str]) -> float | None:
    """The largest error; infinite where one was no finite number, None where nothing was measured."""
    done = [record for record in records if record.status == "ok"]
    values = [record.metrics.get(metric) for record in done for metric in metrics]
    return max((float("inf") if value is None else value for value in values), default=None)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """The error of each statement, the moving averages on their way, and what eps does to scale invariance."""
    figure.set_size_inches(7.2, 3.1)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1.1, 1))
    _errors(left, records)
    arrays = next((found for record in records if (found := read_recording(record.folder or "."))), None)
    if arrays:
        _averages(middle, arrays)
    _departures(right, records)


def _errors(axes: "Axes", records: Sequence[CellResult]) -> None:
    groups = split(records, "norm")
    for i, (name, cells) in enumerate(groups.items()):
        rows = [row + 0.28 * (i - (len(groups) - 1) / 2) for row in range(len(_SHORT))]
        worst = [_worst(cells, metrics) for metrics in _STATEMENTS.values()]
        style = norm_style(name)
        points = [(max(x, 1e-17), y) for x, y in zip(worst, rows, strict=True) if x is not None]
        if points:
            face = style.color if style.filled else "white"
            axes.plot(
                *zip(*points, strict=True), ls="none", marker=MARKERS[i], ms=4, color=style.color, mfc=face, label=name
            )
    axes.axvline(LIMIT, color=GREY, ls=":", lw=1)
    axes.annotate(
        "limit", (LIMIT, -0.3), xytext=(-2, 0), ha="right", textcoords="offset points", fontsize=6, color=GREY
    )
    axes.set(xscale="log", xlabel="Largest error, float64", ylim=(len(_SHORT) + 0.9, -0.8))
    axes.set_yticks(range(len(_SHORT)), _SHORT)
    axes.set_title("Statement by statement", loc="left")
    legend(axes, loc="lower right", bbox_to_anchor=(0.94, 0), handletextpad=0.1, borderaxespad=0.2)


def _averages(axes: "Axes", arrays: dict[str, list[float]]) -> None:
    names = {
        "torch": ("momentum 0.1 (torch)", BLUE, "-"),
        "fraction": ("0.999 from 0, as written", VERMILLION, "--"),
        "caffe": ("0.999, Caffe's two sums", GREEN, "-."),
        "cumulative": ("cumulative", BLACK, ":"),
    }
    for name, (label, color, dash) in names.items():
        path = arrays[f"running_mean_{name}"]
        axes.plot(range(1, len(path) + 1), path, color=color, ls=dash, lw=1.1, label=label)
    axes.axhline(float(arrays["true_mean"][0]), color=GREY, lw=0.8)
    axes.set(xscale="log", xlabel="Batches", ylabel="Running mean (true mean 3)", ylim=(-0.2, 5.4))
    axes.set_title("Moving averages", loc="left")
    axes.legend(loc="upper left")


def _departures(axes: "Axes", records: Sequence[CellResult]) -> None:
    """A line a norm through the means over seeds, and a dot for each seed."""
    for i, (name, cells) in enumerate(split(records, "norm").items()):
        style = norm_style(name)
        scales, stats = series(cells, "scales", lambda arrays: arrays["departure_with_eps"])
        if not scales:
            continue
        # The next one, which may be where the one before is, is a larger hollow marker around it.
        looks: dict[str, Any] = {"color": style.color, "marker": MARKERS[i], "ms": 4 + 3 * i}
        face = "none" if i else style.color
        axes.plot(scales, [stat.mean for stat in stats], lw=0.8, ls=style.dash, mfc=face, label=name, **looks)
        for scale, stat in zip(scales, stats, strict=True):
            axes.plot([scale] * stat.n, stat.values, ls="none", marker=".", ms=2.5, color=GREY)
    axes.set(xscale="log", yscale="log", xlabel="Scale a of the weights", ylabel="|BN((aW)u) − BN(Wu)|, largest")
    axes.set_title("What eps = 1e-5 leaves", loc="left")
    if axes.lines:
        axes.plot([], [], ls="none", marker=".", ms=2.5, color=GREY, label="single seeds")
    legend(axes, loc="upper right", fontsize=6)
