"""FedBN beats averaged BatchNorm where clients' images look different; where their labels differ, GroupNorm does."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normzoo.claims._cells import recorded, recordings, show, spread, text, where
from normzoo.claims._checks import Finding, exceeds, outcome, times
from normzoo.claims._draw import band, label, legend_above, log_scale, mark, name_rows, styled, whole_ticks
from normzoo.report.style import ORANGE, Style, norm_style

_STYLES = {
    "batch_norm": norm_style("batch_norm"),
    "local_batch_norm": Style("FedBN", ORANGE, "D", "--"),
    "group_norm": norm_style("group_norm"),
}
HALF = 2.0  # by what factor FedBN is to lower the error


def judge(cells: pd.DataFrame) -> Finding:
    """Judge the mean error of the clients, and that of the worst of them."""
    looks = {norm: where(cells, norm=norm, study__skew="feature") for norm in _STYLES}
    labels = {norm: where(cells, norm=norm, study__skew="label") for norm in _STYLES}
    bn, fedbn, _ = looks.values()
    bn_labels, _, gn_labels = (outcome(own, "error_all") for own in labels.values())
    mean, mean_fedbn = (outcome(own, "error_mean") for own in (bn, fedbn))
    worst = [outcome(own, "error_worst") for own in (bn, fedbn)]
    checks = [
        times("other looks: averaged BN has a higher mean error than FedBN", mean, mean_fedbn, HALF),
        exceeds("other looks: so it has at the worst client", *worst),
        exceeds("other labels: averaged BN has a higher error over all classes than GN", bn_labels, gn_labels),
    ]
    parts = []
    for name, arms, metric, what in (
        ("other looks", looks, "error_worst", "worst client"),
        ("other labels", labels, "error_all", "on all classes"),
    ):
        told = [
            f"{_STYLES[norm].name} {text(spread(own, 'error_mean'), own, unit='%')}, "
            f"{what} {show(spread(own, metric))} %"
            for norm, own in arms.items()
            if len(own)
        ]
        if told:
            parts.append(f"{name}: {'; '.join(told)}")
    return Finding("clients' mean error. " + ". ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the mean error round by round, and at the end client by client."""
    figure.set_size_inches(7.2, 3.3)
    skews = [(skew, own) for skew in ("feature", "label") if len(own := where(cells, study__skew=skew))]
    axes = figure.subplots(1, max(1, 2 * len(skews)), width_ratios=(1, 1.05) * len(skews), squeeze=False)[0]
    for (skew, own), left, right in zip(skews, axes[::2], axes[1::2], strict=True):
        if skew == "feature":
            _by_round(left, own, "federated_errors")
            label(left, "Clients' images look different", "Round", "Mean error (%)")
        else:
            _by_round(left, own, "federated_errors_all")
            label(left, "Clients hold 3 classes", "Round", "Error on all classes (%)")
        _by_client(right, own, skew)
    legend_above(figure, axes[::2])


def _by_round(axes: Axes, cells: pd.DataFrame, name: str) -> None:
    for norm, style in _STYLES.items():
        curve = recorded(where(cells, norm=norm), "", lambda arrays: arrays[name].mean(1))
        band(axes, curve, **styled(style, marked=False))
    log_scale(axes, "y")
    whole_ticks(axes)


def _by_client(axes: Axes, cells: pd.DataFrame, skew: str) -> None:
    names = [str(name) for _, arrays in recordings(cells)[:1] for name in arrays["federated_clients"]]
    if skew == "label":  # a client's classes differ from seed to seed
        names = [f"client {i + 1}" for i in range(len(names))]
    for i, (norm, style) in enumerate(_STYLES.items()):
        for client in range(len(names)):
            mark(axes, spread(where(cells, norm=norm), f"error_{client}"), client + 0.22 * (i - 1), style)
    name_rows(axes, names)
    axes.set_xlim(left=0)
    axes.set_xlabel("Own error (%)")
