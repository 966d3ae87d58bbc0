"""Whether normalizers of data do what they are for, and whether gradient descent is faster behind them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import Curve, recorded, recordings, show, split, spread, where
from normzoo.claims._checks import Finding, Outcome, at_best, exceeds
from normzoo.claims._draw import band, label, log_scale, whole_ticks
from normzoo.report.checks import Check
from normzoo.report.errors_axis import mark_lost
from normzoo.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION
from normzoo.results import CellResult
from normzoo.text import counted

LIMIT = 1e-6  # float64, whitening divides by the square root of the smallest variances
OFF = 0.01
RAW, LR, KEY = "raw", "optimizer.base_lr", "study.normalizer"
NAMES = {
    RAW: ("pixels 0 to 255", BLACK, "x"),
    "minmax": ("min-max", ORANGE, "s"),
    "zscore": ("z-score", VERMILLION, "o"),
    "l2": ("L2", PURPLE, "v"),
    "pca": ("PCA whitening", BLUE, "^"),
    "zca": ("ZCA whitening", GREEN, "D"),
}
_FITTED = [name for name in NAMES if name != RAW]
# What is asked of each normalizer, and the metrics that are to be below the limit.
_PROMISES = {
    "z-score: means 0 and deviations 1": ["zscore_mean_off", "zscore_std_off"],
    "L2: every sample of length 1": ["l2_length_off"],
    "PCA whitening: means 0, variances 1, no correlation": ["pca_mean_off", "pca_std_off", "pca_correlation"],
    "ZCA whitening: means 0, variances 1, no correlation": ["zca_mean_off", "zca_std_off", "zca_correlation"],
    "the inverse gives back the data": ["minmax_inverse", "zscore_inverse", "pca_inverse", "zca_inverse"],
    "fitted to a stream of batches as to all data": [f"{name}_stream" for name in _FITTED],
    "fitted to data with missing samples (NaN) as to data without these": [f"{name}_nan" for name in _FITTED],
    "with features that never change among them, no value becomes NaN or infinite": [
        f"{name}_not_finite" for name in _FITTED
    ],
}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge what each normalizer promises, the example of L2, and the loss at the best learning rate against pixels."""
    facts = where(cells, study__name="normalizers", status="ok")
    metrics = [record.metrics for record in facts.record]
    arms = split(where(cells, study__name="normalized_training"), KEY)
    best = {name: _at_best(arms.get(name, cells[:0])) for name in NAMES}
    checks = [_in_range(metrics), *(_below(what, metrics, names) for what, names in _PROMISES.items()), _example(facts)]
    for name in _FITTED:
        what = f"training loss in the last epoch is higher on pixels from 0 to 255 than behind {NAMES[name][0]}"
        checks.append(exceeds(what, best[RAW][1], best[name][1], digits=3))
    parts = []
    for name, own in arms.items():
        rate, loss = best[name]
        gone = sum(not trained(record) for record in own.record)
        found = f"{show(loss.stat, 3)} at {rate:g}" if loss.stat else "trains at no learning rate"
        parts.append(f"{NAMES[name][0]} {found}{f' ({gone} of {len(own)} cells not finite)' if gone else ''}")
    n = len({seed for own in arms.values() for seed in own.seed})
    return Finding(f"training loss at the best learning rate: {'; '.join(parts)} ({counted(n, 'seed')})", checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw histograms before and after, the loss over the learning rate, and by epoch at the best one."""
    figure.set_size_inches(7.2, 4.6)
    grid = figure.add_gridspec(2, 1, height_ratios=(1, 1.7))
    facts = recordings(where(cells, study__name="normalizers"))
    above = grid[0].subgridspec(1, len(NAMES)).subplots(squeeze=False, sharey=True)[0]
    for axes, (name, (title, color, _)) in zip(above, NAMES.items(), strict=True):
        arrays = facts[0][1] if facts else {}
        if f"{name}_histogram" in arrays:
            axes.stairs(arrays[f"{name}_histogram"], arrays[f"{name}_edges"], fill=True, color=color)
            axes.set_yscale("log")
        label(axes, "before, 0 to 1" if name == RAW else title, "value")
    above[0].set_ylabel("Count, log scale")
    crossed = False
    left, right = grid[1].subgridspec(1, 2).subplots(squeeze=False)[0]
    for name, own in split(where(cells, study__name="normalized_training"), KEY).items():
        title, color, marker = NAMES[name]
        looks: dict[str, Any] = {"color": color, "marker": marker, "ms": 4, "lw": 1.1, "least": 0.3}
        band(left, _along(own), label=title, **looks)
        apart = 1.3 ** (list(NAMES).index(name) - (len(NAMES) - 1) / 2)
        crosses = [rate * apart for rate, at in split(own, LR).items() if not _finite(at)]
        mark_lost(left, crosses, color)
        crossed = crossed or bool(crosses)
        rate, _ = _at_best(own)
        curve = recorded(own[own[LR] == rate], "", lambda found: found["epoch_train_loss"])
        band(right, curve, label=title if rate is None else f"{title}, {rate:g}", **looks)
    if crossed:
        left.plot([], [], ls="none", marker="X", ms=5, mfc="white", mec=GREY, label="loss not finite")
    left.set_xscale("log")
    label(left, "Over the learning rate", "Learning rate", "Cross-entropy, last epoch", pad=10)  # above the crosses
    label(right, "At the best learning rate", "Epoch", "Cross-entropy in training")
    for axes in (left, right):
        log_scale(axes, "y")
        if axes.lines:
            axes.legend(fontsize=5.5)
    whole_ticks(right)


def trained(record: CellResult) -> bool:
    """Return whether the loss stayed finite."""
    return record.status == "ok" and record.metrics.get("train_loss") is not None


def _finite(cells: pd.DataFrame) -> bool:
    return all(map(trained, cells.record))


def _along(cells: pd.DataFrame) -> Curve:
    """Return the loss at each learning rate at which it stayed finite with every seed."""
    rates = {rate: own for rate, own in sorted(split(cells, LR).items()) if _finite(own)}
    return list(rates), [stat for own in rates.values() if (stat := spread(own, "train_loss"))]


def _at_best(cells: pd.DataFrame) -> tuple[Any, Outcome]:
    return at_best(cells, LR, "train_loss", _finite, "trains at no learning rate")


def _below(what: str, facts: Sequence[Mapping[str, float | None]], metrics: Sequence[str]) -> Check:
    text = f"{what}: off by less than {LIMIT:g}"
    if not facts:
        return Check(text, None, "no such cells")
    if any(metric not in found for found in facts for metric in metrics):
        return Check(text, None, "not in these records")
    errors = [found[metric] for found in facts for metric in metrics]
    worst = max(math.inf if error is None else error for error in errors)
    return Check(text, worst < LIMIT, f"{worst:.1g}")


def _in_range(facts: Sequence[Mapping[str, float | None]]) -> Check:
    text = f"min-max: from 0 to 1, off by less than {LIMIT:g}"
    ends = [(found.get("minmax_min"), found.get("minmax_max")) for found in facts]
    if not ends:
        return Check(text, None, "no such cells")
    numbers = [(low, high) for low, high in ends if low is not None and high is not None]
    holds = len(numbers) == len(ends) and all(abs(low) < LIMIT and abs(high - 1) < LIMIT for low, high in numbers)
    return Check(text, holds, "; ".join(f"from {low:g} to {high:g}" for low, high in numbers))


def _example(facts: pd.DataFrame) -> Check:
    text = f"the vector of ten that a tutorial prints as normalized by L2 has length 1, off by less than {OFF:g}"
    length = facts.record.iloc[0].metrics.get("example_length") if len(facts) else None
    if length is None:
        return Check(text, None, "no such cells")
    found = f"length {length:.4f}"
    arrays = next((arrays for _, arrays in recordings(facts)), {})
    if "example_l2" in arrays:
        true = ", ".join(f"{value:.3f}" for value in arrays["example_l2"])
        found += f", every number {1 / length:.1f} times too small; normalized it reads {true}"
    return Check(text, abs(length - 1) < OFF, found)
