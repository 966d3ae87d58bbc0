"""What lies between training and validation with BatchNorm, dropout, both and neither; and the noise of the batches."""

from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normzoo.claims._cells import curves, lost, show, split, spread, text, where
from normzoo.claims._checks import Finding, Outcome, exceeds, judged, on_arms, outcome
from normzoo.claims._draw import RUNNING, band, label, log_scale, ticks, whole_ticks
from normzoo.report.checks import Check
from normzoo.report.series import Stat
from normzoo.report.style import GREY, matplotlib_arguments, norm_style
from normzoo.results import CellResult

PLAIN, BN, QUIET = "identity", "batch_norm", "group_norm"
DROPOUT, NOISE = "model.dropout", "statistic_noise_mean"


def judge(cells: pd.DataFrame) -> Finding:
    """Judge gap and error per norm and dropout at one batch size; noise and gap of BatchNorm over the batch size."""
    usual = _usual(cells)
    arms = {(norm, drops): _arm(usual, norm, drops) for norm in (PLAIN, BN, QUIET) for drops in (False, True)}
    gaps, errors = ({arm: outcome(own, of) for arm, own in arms.items()} for of in (gap, RUNNING))
    plain, dropped, bn, both = (PLAIN, False), (PLAIN, True), (BN, False), (BN, True)
    dropout = "validation error with dropout and without BN is higher than with BN and without dropout"
    checks = [
        _higher_gap("validation error less training error is higher without BN", gaps[plain], gaps[bn]),
        exceeds(dropout, errors[dropped], errors[bn], unit="points"),
        _no_gain("with BN, dropout does not lower the validation error", errors[bn], errors[both]),
    ]
    if any(len(arms[QUIET, drops]) for drops in (False, True)):
        what = "the gap is higher with GroupNorm, which has no noise of the batch, than with BN"
        checks.append(_higher_gap(what, gaps[QUIET, False], gaps[bn]))
    parts = [
        f"{norm_style(norm).name}{' + dropout' if drops else ''}: gap {show(gaps[norm, drops].stat)}, "
        f"error {text(errors[norm, drops].stat, own, unit='%')}"
        for (norm, drops), own in arms.items()
        if len(own)
    ]
    sizes = _by_batch(cells, BN)
    if len(sizes) > 1:
        small, large = sizes[min(sizes)], sizes[max(sizes)]
        of = f"BN at batch {min(sizes)} against {max(sizes)}"
        noise = [outcome(own, NOISE) for own in (small, large)]
        checks += [
            exceeds(f"{of}: batch statistics are noisier", *noise, digits=3, better=None),
            _higher_gap(f"{of}: the gap is lower", outcome(large, gap), outcome(small, gap)),
        ]
        quiet = _by_batch(cells, QUIET).get(min(sizes))
        if quiet is not None:
            what = f"at batch {min(sizes)} the gap is higher with GroupNorm than with BN"
            checks.append(_higher_gap(what, outcome(quiet, gap), outcome(small, gap)))
        found = "; ".join(
            f"{size}: noise {show(spread(own, NOISE), 3)} population std, gap {show(spread(own, gap))}"
            f"{lost(own, ' ({})')}"
            for size, own in sizes.items()
        )
        parts.append(f"BN by batch size: {found}")
    return Finding("; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw errors by epoch, the gap of each net at the end, and noise and gap over the batch size."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    usual = _usual(cells)
    for norm in split(usual, "norm"):
        own, style = _arm(usual, norm, False), norm_style(norm)
        looks: dict[str, Any] = {"color": style.color, "lw": 1.2}
        band(left, curves(own, "epoch", RUNNING), label=style.name, **looks)
        band(left, curves(own, "epoch", "train_error"), ls="--", **looks)
    left.plot([], [], color=GREY, ls="--", label="on training images")
    left.set_ylim(0, None)
    label(left, "Error by epoch", "Epoch", "Error (%), no dropout")
    whole_ticks(left)
    left.legend()
    _bars(middle, usual)
    _over_batch(right, cells)


def gap(record: CellResult) -> float | None:
    """Return validation error less training error, in points, both with running statistics."""
    ends = record.metrics.get(RUNNING), record.metrics.get("train_error")
    return None if ends[0] is None or ends[1] is None else ends[0] - ends[1]


def _higher_gap(what: str, high: Outcome, low: Outcome) -> Check:
    return exceeds(what, high, low, unit="points", better=None)


def _no_gain(what: str, without: Outcome, with_dropout: Outcome) -> Check:
    def no_lower(without: Stat, with_dropout: Stat) -> bool:
        return not exceeds("", Outcome(without), Outcome(with_dropout)).holds

    lower = exceeds(what, replace(without, cells=()), replace(with_dropout, cells=()), unit="points")
    check = replace(lower, holds=judged(without, with_dropout, no_lower))
    return on_arms(check, without, with_dropout)


def _arm(cells: pd.DataFrame, norm: str, drops: bool) -> pd.DataFrame:
    own = where(cells, norm=norm)
    dropped = own[DROPOUT].fillna(0) != 0 if DROPOUT in own else pd.Series(False, own.index)
    return own[dropped == drops]


def _usual(cells: pd.DataFrame) -> pd.DataFrame:
    """Select the cells at the batch size at which the other norms ran too."""
    sizes = list(cells.batch[cells.norm != BN].dropna())
    return where(cells, batch=max(set(sizes), key=sizes.count)) if sizes else cells


def _by_batch(cells: pd.DataFrame, norm: str) -> dict[int, pd.DataFrame]:
    return dict(sorted(split(_arm(cells, norm, False), "batch").items()))


def _bars(axes: Axes, usual: pd.DataFrame) -> None:
    norms = list(split(usual, "norm"))
    for i, norm in enumerate(norms):
        for drops, offset in ((False, -0.19), (True, 0.19)):
            if found := spread(_arm(usual, norm, drops), gap):
                color = norm_style(norm).color
                axes.bar(
                    i + offset, found.mean, 0.36, yerr=found.std or 0.0, color="white" if drops else color,
                    edgecolor=color, hatch="///" if drops else None, error_kw={"elinewidth": 0.8, "capsize": 2},
                )  # fmt: skip
    names = [norm_style(norm).name.replace(" norm", "\nnorm").replace("Norm", "\nNorm") for norm in norms]
    axes.set_xticks(range(len(norms)), names)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])
    axes.bar(0, 0, color=GREY, label="no dropout")
    axes.bar(0, 0, color="white", edgecolor=GREY, hatch="///", label="dropout")
    label(axes, "Gap at the end (points)", y="Validation − training error")
    axes.legend(loc="upper right")


def _over_batch(axes: Axes, cells: pd.DataFrame) -> None:
    twin = axes.twinx()
    drawn: list[tuple[Axes, str, Any, str]] = [
        (axes, BN, NOISE, "BatchNorm: noise (left)"),
        (twin, BN, gap, "BatchNorm: gap"),
        (twin, QUIET, gap, "GroupNorm: gap"),
    ]
    for on, norm, metric, name in drawn:
        stats = {size: spread(own, metric) for size, own in _by_batch(cells, norm).items()}
        found = {size: stat for size, stat in stats.items() if stat}
        means, stds = [stat.mean for stat in found.values()], [stat.std or 0.0 for stat in found.values()]
        looks = {**matplotlib_arguments(norm_style(norm)), "ms": 4, "linestyle": "-"}
        if metric is gap:
            looks |= {"markerfacecolor": "white", "linestyle": "--"}
        if found:
            on.errorbar(list(found), means, stds, elinewidth=0.8, capsize=2, label=name, **looks)
    log_scale(axes, "x")
    ticks(axes, list(_by_batch(cells, BN)))
    for on in (axes, twin):
        on.set_ylim(0, 1.6 * on.get_ylim()[1])
    label(axes, "Noise and gap", "Batch size", "Spread of batch means (std)")
    twin.set_ylabel("Gap (points)")
    twin.grid(False)
    lines, names = (a + b for a, b in zip(*(on.get_legend_handles_labels() for on in (axes, twin)), strict=True))
    axes.legend(lines, names, loc="upper right", fontsize=6)
