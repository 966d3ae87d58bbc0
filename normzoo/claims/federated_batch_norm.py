"""FedBN beats averaged BatchNorm where clients' images look different; where their labels differ, GroupNorm does."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import outcome, spread, text, where
from normzoo.claims._compare import exceeds, show, times
from normzoo.claims._draw import band, legend_above, log_scale, whole_ticks
from normzoo.claims._finding import Finding
from normzoo.claims._recorded import recordings, series
from normzoo.claims._statistics import mark
from normzoo.report.style import ORANGE, Style, norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMS = ("batch_norm", "local_batch_norm", "group_norm")
HALF = 2.0  # by what factor FedBN is to lower the error
_FEDBN = Style("FedBN", ORANGE, "D", "--")


def judge(records: Sequence[CellResult]) -> Finding:
    """The mean error of the clients, and that of the worst of them."""
    looks = {norm: where(records, norm=norm, study__skew="feature") for norm in NORMS}
    labels = {norm: where(records, norm=norm, study__skew="label") for norm in NORMS}
    bn, fedbn = (looks[norm] for norm in NORMS[:2])
    mean, worst, every = "error_mean", "error_worst", "error_all"
    checks = [
        times(
            "other looks: averaged BN has a higher mean error than FedBN", outcome(bn, mean), outcome(fedbn, mean), HALF
        ),
        exceeds("other looks: so it has at the worst client", outcome(bn, worst), outcome(fedbn, worst)),
        exceeds(
            "other labels: averaged BN has a higher error over all classes than GN",
            outcome(labels["batch_norm"], every),
            outcome(labels["group_norm"], every),
        ),
    ]
    parts = []
    for name, arms, other, said in (
        ("other looks", looks, worst, "worst client"),
        ("other labels", labels, every, "on all classes"),
    ):
        told = [
            f"{_style(norm).name} {text(spread(cells, mean), cells, unit='%')}, {said} {show(spread(cells, other))} %"
            for norm, cells in arms.items()
            if cells
        ]
        if told:
            parts.append(f"{name}: {'; '.join(told)}")
    return Finding("clients' mean error. " + ". ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """The mean error round by round, and at the end client by client."""
    figure.set_size_inches(7.2, 3.3)
    skews = [(skew, where(records, study__skew=skew)) for skew in ("feature", "label")]
    skews = [(skew, cells) for skew, cells in skews if cells]
    axes = figure.subplots(1, max(1, 2 * len(skews)), width_ratios=(1, 1.05) * len(skews), squeeze=False)[0]
    for (skew, cells), left, right in zip(skews, axes[::2], axes[1::2], strict=True):
        _by_round(left, cells, "federated_errors" if skew == "feature" else "federated_errors_all")
        left.set_title("Clients' images look different" if skew == "feature" else "Clients hold 3 classes", loc="left")
        left.set_ylabel("Mean error (%)" if skew == "feature" else "Error on all classes (%)")
        _by_client(right, cells, skew)
    legend_above(figure, axes[::2])


def _by_round(axes: "Axes", cells: Sequence[CellResult], name: str) -> None:
    for norm in NORMS:
        line = series(where(cells, norm=norm), "", lambda arrays: arrays[name].mean(1))
        style = _style(norm)
        band(axes, *line, color=style.color, ls=style.dash, lw=1.2, label=style.name)
    if axes.has_data():
        log_scale(axes, "y")
    whole_ticks(axes)
    axes.set_xlabel("Round")


def _by_client(axes: "Axes", cells: Sequence[CellResult], skew: str) -> None:
    names = _clients(cells, skew)
    for i, norm in enumerate(NORMS):
        style = _style(norm)
        for client in range(len(names)):
            stat = spread(where(cells, norm=norm), f"error_{client}")
            if stat:
                mark(axes, stat, client + 0.22 * (i - 1), style.color, style.marker)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("Own error (%)")


def _clients(cells: Sequence[CellResult], skew: str) -> list[str]:
    """The looks, which are the same with every seed; the classes are not, and such clients have numbers."""
    for _, arrays in recordings(cells):
        names = [str(name) for name in arrays["federated_clients"]]
        return names if skew == "feature" else [f"client {i + 1}" for i in range(len(names))]
    return []


def _style(norm: str) -> Style:
    return _FEDBN if norm == "local_batch_norm" else norm_style(norm)
