"""BatchNorm, GroupNorm, LayerNorm, InstanceNorm and none, side by side in one net."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from normzoo.claims._cells import curves, lost, outcome, split, text, where
from normzoo.claims._compare import exceeds
from normzoo.claims._draw import band, legend, log_scale, whole_ticks
from normzoo.claims._finding import Check, Finding
from normzoo.report.style import matplotlib_arguments, norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITHOUT = "identity"
ORDER = ("batch_norm", "group_norm", "layer_norm", "instance_norm")  # from the least error to the most, in the paper
# Not measured here: ResNet-50 on ImageNet, 32 images per GPU, validation error in percent.
PAPER = {"batch_norm": 23.6, "group_norm": 24.1, "layer_norm": 25.3, "instance_norm": 28.4}


def judge(records: Sequence[CellResult]) -> Finding:
    """On each data set: the loss after the first epoch against none, and the order of the errors at the end."""
    checks: list[Check] = []
    parts: list[str] = []
    for data, cells in split(records, "data").items():
        arms = {norm: where(cells, norm=norm) for norm in (WITHOUT, *ORDER)}
        loss = {norm: outcome(own, _first_loss) for norm, own in arms.items()}
        error = {norm: outcome(own, "val_error_running") for norm, own in arms.items()}
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


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Validation loss and error by epoch, a row a data set."""
    groups = split(records, "data")
    figure.set_size_inches(7.2, 0.6 + 2.2 * len(groups))
    rows = figure.subplots(len(groups), 2, squeeze=False)
    for (losses, errors), (data, cells) in zip(rows, groups.items(), strict=True):
        for norm, own in split(cells, "norm").items():
            looks = {**matplotlib_arguments(norm_style(norm)), "ms": 4}
            gone = lost(own)
            band(losses, *curves(own, "epoch", "val_loss"), **looks)
            label = f"{_name(norm)}{f' ({gone})' if gone else ''}"
            band(errors, *curves(own, "epoch", "val_error_running"), label=label, **looks)
        losses.set(xlabel="Epoch", ylabel="Validation cross-entropy")
        errors.set(xlabel="Epoch", ylabel="100 − accuracy (%)")
        losses.set_title(f"{data}: loss", loc="left")
        errors.set_title(f"{data}: validation error", loc="left")
        for axes in (losses, errors):
            log_scale(axes, "y")
            whole_ticks(axes)
    legend(rows[0][1], loc="upper left", bbox_to_anchor=(1.01, 1))


def _first_loss(record: CellResult) -> float | None:
    return record.curve[0].get("val_loss") if record.curve else None


def _name(norm: str) -> str:
    return norm_style(norm).name
