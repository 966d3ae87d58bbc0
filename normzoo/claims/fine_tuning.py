"""A net pretrained with BatchNorm and fine-tuned at batch 2 does better with other norms, or with frozen ones."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normzoo.claims._cells import where
from normzoo.claims._checks import Finding, Outcome, at_best, exceeds, outcome
from normzoo.claims._draw import label, legend_above, log_scale, mark, name_rows
from normzoo.report.style import BLUE, VERMILLION, Style

SMALL, LARGE = 2, 32
LR = "optimizer.base_lr"
SHIFTS = ("none", "mild", "strong")

# The norm of the pretraining, the study's arm, the metric, and a name for people.
ACTIONS = {
    "keep": ("batch_norm", "as_is", "error", "BN as it is"),
    "recalibrate_only": ("batch_norm", "recalibrate", "error_treated", "BN recalibrated, not fine-tuned"),
    "recalibrate": ("batch_norm", "as_is", "error_recalibrated", "BN recalibrated after"),
    "freeze": ("batch_norm", "frozen", "error", "BN frozen"),
    "freeze_statistics": ("batch_norm", "eval_mode", "error", "BN's statistics frozen"),
    "recalibrate_freeze": ("batch_norm", "recalibrate_freeze", "error", "recalibrated, statistics frozen"),
    "batch_renorm": ("batch_norm", "batch_renorm", "error", "Batch Renorm"),
    "group_norm": ("batch_norm", "group_norm", "error", "GN, weights copied"),
    "group_norm_reset": ("batch_norm", "group_norm_reset", "error", "GN, weights reset"),
    "group_norm_calibrated": ("batch_norm", "group_norm_calibrated", "error", "GN, calibrated"),
    "group_norm_from_start": ("group_norm", "as_is", "error", "GN from the start"),
}
_OTHERS = ("freeze", "freeze_statistics", "recalibrate_freeze", "batch_renorm", "group_norm", "group_norm_calibrated")
_BATCHES = {SMALL: Style(f"batch {SMALL}", VERMILLION, "o", "-"), LARGE: Style(f"batch {LARGE}", BLUE, "^", "-")}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge each of the others against BatchNorm as it is, at the best learning rate of each, per shift."""
    checks, parts = [], []
    for shift in SHIFTS[1:]:
        own = where(cells, study__shift=shift, batch=SMALL)
        if not len(own):
            continue
        _, kept = best(own, "keep")
        for action in _OTHERS:
            _, found = best(own, action)
            if found.cells or shift == "strong":
                name = ACTIONS[action][3]
                checks.append(exceeds(f"{shift} shift: BN as it is has a higher error than {name}", kept, found))
        untreated = outcome(where(own, norm="batch_norm", study__arm="recalibrate"), "error_untreated")
        if untreated.cells:
            alone = best(own, "recalibrate_only")[1]
            what = f"{shift} shift: without fine-tuning, the error is higher before recalibration than after"
            checks.append(exceeds(what, untreated, alone))
        told = [f"{ACTIONS[action][3]} {found.show()} %" for action in ACTIONS if (found := best(own, action)[1]).cells]
        parts.append(f"{shift} shift: {', '.join(told)}")
    return Finding(f"error at batch {SMALL} and the best learning rate. " + "; ".join(parts), checks)


def best(cells: pd.DataFrame, action: str) -> tuple[float | None, Outcome]:
    """Return the best learning rate of an action, None where there is none, and the error at it."""
    norm, arm, metric, _ = ACTIONS[action]
    own = where(cells, norm=norm, study__arm=arm)
    if metric == "error_treated":  # no learning rate has come in yet
        return None, outcome(own, metric)
    return at_best(own, LR, metric, lambda cells: bool((cells.status == "ok").all()))


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw a row for each action, at both batch sizes, a panel for each shift."""
    figure.set_size_inches(7.2, 3.4)
    shifts = [shift for shift in SHIFTS if len(where(cells, study__shift=shift))]
    axes = figure.subplots(1, max(1, len(shifts)), sharey=True, squeeze=False)[0]
    actions = [action for action in ACTIONS if any(best(cells, action)[1].cells)]
    for panel, shift in zip(axes, shifts, strict=False):
        _panel(panel, where(cells, study__shift=shift), actions)
        label(panel, "no shift" if shift == "none" else f"{shift} shift", "Error after fine-tuning (%)")
    name_rows(axes[0], [ACTIONS[action][3] for action in actions])
    legend_above(figure, axes[:1])


def _panel(axes: Axes, cells: pd.DataFrame, actions: list[str]) -> None:
    for i, (batch, style) in enumerate(_BATCHES.items()):
        for row, action in enumerate(actions):
            mark(axes, best(where(cells, batch=batch), action)[1].stat, row + 0.24 * (i - 0.5), style)
        axes.plot([], [], ls="none", marker=style.marker, ms=4.5, color=style.color, label=style.name)
    log_scale(axes, "x")
