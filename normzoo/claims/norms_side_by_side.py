"""BatchNorm, GroupNorm, LayerNorm, InstanceNorm and none, side by side in one net."""

from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import curves, lost, split, text, where
from normzoo.claims._checks import Finding, exceeds, outcome
from normzoo.claims._draw import RUNNING, band, label, legend, log_scale, whole_ticks
from normzoo.report.checks import Check
from normzoo.report.style import matplotlib_arguments, norm_style
from normzoo.results import CellResult

WITHOUT = "identity"
ORDER = ("batch_norm", "group_norm", "layer_norm", "instance_norm")  # from the least error to the most, in the paper
# Not measured here: ResNet-50 on ImageNet, 32 images per GPU, validation error in percent.
PAPER = {"batch_norm": 23.6, "group_norm": 24.1, "layer_norm": 25.3, "instance_norm": 28.4}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge the loss after the first epoch against none, and the order of the errors at the end, on each data set."""
    checks: list[Check] = []
    parts: list[str] = []
    for data, own in split(cells, "data").items():
        arms = {norm: where(own, norm=norm) for norm in (WITHOUT, *ORDER)}
        loss, error = ({norm: outcome(arm, of) for norm, arm in arms.items()} for of in (_first_loss, RUNNING))
        for norm in ORDER:
            what = f"{data}: validation loss after epoch 1 is higher without a norm than with {_name(norm)}"
            checks.append(exceeds(what, loss[WITHOUT], loss[norm], digits=3))
        for less, more in pairwise(ORDER):
            what = f"{data}: the error at the end is higher with {_name(more)} than with {_name(less)}"
            checks.append(exceeds(what, error[more], error[less], unit="points"))
        ends = ", ".join(f"{_name(norm)} {text(error[norm].stat, arms[norm], unit='%')}" for norm in arms)
        parts.append(f"error on {data}: {ends}")
    if parts:
        paper = ", ".join(f"{_name(norm)} {error} %" for norm, error in PAPER.items())
        parts.append(f"the paper, ResNet-50 on ImageNet: {paper}")
    return Finding("; ".join(parts), checks or [Check("errors and losses of the norms", None, "no such cells")])


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw validation loss and error by epoch, a row a data set."""
    groups = split(cells, "data")
    figure.set_size_inches(7.2, 0.6 + 2.2 * len(groups))
    rows = figure.subplots(len(groups), 2, squeeze=False)
    for (losses, errors), (data, own) in zip(rows, groups.items(), strict=True):
        for norm, arm in split(own, "norm").items():
            looks = {**matplotlib_arguments(norm_style(norm)), "ms": 4}
            band(losses, curves(arm, "epoch", "val_loss"), **looks)
            band(errors, curves(arm, "epoch", RUNNING), label=_name(norm) + lost(arm, " ({})"), **looks)
        label(losses, f"{data}: loss", "Epoch", "Validation cross-entropy")
        label(errors, f"{data}: validation error", "Epoch", "100 − accuracy (%)")
        for axes in (losses, errors):
            log_scale(axes, "y")
        whole_ticks(losses, errors)
    legend(rows[0][1], loc="upper left", bbox_to_anchor=(1.01, 1))


def _first_loss(record: CellResult) -> float | None:
    return record.curve[0].get("val_loss") if record.curve else None


def _name(norm: str) -> str:
    return norm_style(norm).name
