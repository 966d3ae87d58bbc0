"""Whether normalizers of data do what they are for, and whether gradient descent is faster behind them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import Outcome, entry, lost, ran, split, spread, where
from normzoo.claims._compare import exceeds, show
from normzoo.claims._draw import band, log_scale, whole_ticks
from normzoo.claims._finding import Check, Finding
from normzoo.claims._recorded import series
from normzoo.recording import read_recording
from normzoo.report.checks import at_edge
from normzoo.report.errors_axis import mark_lost
from normzoo.report.series import Stat
from normzoo.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
# What is asked of each normalizer, and the metrics that are to be below the limit.
_PROMISES = {
    "z-score: means 0 and deviations 1": ("zscore_mean_off", "zscore_std_off"),
    "L2: every sample of length 1": ("l2_length_off",),
    "PCA whitening: means 0, variances 1, no correlation": ("pca_mean_off", "pca_std_off", "pca_correlation"),
    "ZCA whitening: means 0, variances 1, no correlation": ("zca_mean_off", "zca_std_off", "zca_correlation"),
    "the inverse gives back the data": ("minmax_inverse", "zscore_inverse", "pca_inverse", "zca_inverse"),
    "fitted to a stream of batches as to all data": tuple(f"{name}_stream" for name in NAMES if name != RAW),
    "fitted to data with missing samples (NaN) as to data without these": tuple(
        f"{name}_nan" for name in NAMES if name != RAW
    ),
    "with features that never change among them, no value becomes NaN or infinite": tuple(
        f"{name}_not_finite" for name in NAMES if name != RAW
    ),
}


def judge(records: Sequence[CellResult]) -> Finding:
    """What each normalizer promises, the example of L2, and the loss at the best learning rate against raw pixels."""
    facts = [record for record in where(records, study="normalizers") if record.status == "ok"]
    arms = split(where(records, study="normalized_training"), KEY)
    best = {name: best_rate(arms.get(name, ())) for name in NAMES}
    losses = {name: _at_best(arms.get(name, ())) for name in NAMES}
    checks = [_in_range(facts), *(_below(what, facts, metrics) for what, metrics in _PROMISES.items()), _example(facts)]
    for name, (label, *_) in NAMES.items():
        if name != RAW:
            what = f"training loss in the last epoch is higher on pixels from 0 to 255 than behind {label}"
            checks.append(exceeds(what, losses[RAW], losses[name], digits=3))
    parts = []
    for name, cells in arms.items():
        rate, loss = best[name]
        gone = sum(not trained(cell) for cell in cells)
        found = f"{show(loss, 3)} at {rate:g}" if rate else "trains at no learning rate"
        parts.append(f"{NAMES[name][0]} {found}{f' ({gone} of {len(cells)} cells not finite)' if gone else ''}")
    seeds = len({record.seed for cells in arms.values() for record in cells})
    return Finding(f"training loss at the best learning rate: {'; '.join(parts)} (n = {seeds})", checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Histograms before and after, the loss over the learning rate, and by epoch at the best one."""
    figure.set_size_inches(7.2, 4.6)
    grid = figure.add_gridspec(2, 1, height_ratios=(1, 1.7))
    arrays = next(
        (found for r in where(records, study="normalizers") if (found := read_recording(r.folder or "."))), {}
    )
    above = grid[0].subgridspec(1, len(NAMES)).subplots(squeeze=False, sharey=True)[0]
    for axes, (name, (label, color, _)) in zip(above, NAMES.items(), strict=True):
        _histogram(axes, arrays, name, color)
        axes.set_title("before, 0 to 1" if name == RAW else label, loc="left")
    above[0].set_ylabel("Count, log scale")
    crossed = False
    left, right = grid[1].subgridspec(1, 2).subplots(squeeze=False)[0]
    for name, cells in split(where(records, study="normalized_training"), KEY).items():
        label, color, marker = NAMES[name]
        looks: dict[str, Any] = {"color": color, "marker": marker, "ms": 4, "lw": 1.1, "least": 0.3}
        rates = {rate: stat for rate, stat in along_rates(cells).items() if stat}
        band(left, list(rates), list(rates.values()), label=label, **looks)
        crossed = _crosses(left, cells, name) or crossed
        rate, _ = best_rate(cells)
        at_best = [cell for cell in cells if entry(cell, LR) == rate]
        band(
            right,
            *series(at_best, "", lambda found: found["epoch_train_loss"]),
            label=f"{label}, {rate:g}" if rate else label,
            **looks,
        )
    if crossed:
        left.plot([], [], ls="none", marker="X", ms=5, mfc="white", mec=GREY, label="loss not finite")
    left.set(xlabel="Learning rate", ylabel="Cross-entropy, last epoch", xscale="log")
    right.set(xlabel="Epoch", ylabel="Cross-entropy in training")
    for axes in (left, right):
        log_scale(axes, "y")
        if axes.lines:
            axes.legend(fontsize=5.5)
    whole_ticks(right)
    left.set_title("Over the learning rate", loc="left", pad=10)  # above the crosses
    right.set_title("At the best learning rate", loc="left")


def trained(record: CellResult) -> bool:
    """Whether the loss stayed finite."""
    return record.status == "ok" and record.metrics.get("train_loss") is not None


def along_rates(cells: Sequence[CellResult]) -> dict[float, Stat | None]:
    """The loss at each learning rate at which it stayed finite with every seed, None at the others."""
    found = sorted(split(cells, LR).items())
    return {rate: spread(own, "train_loss") if all(map(trained, own)) else None for rate, own in found}


def best_rate(cells: Sequence[CellResult]) -> tuple[float | None, Stat | None]:
    """The learning rate with the least loss, and the loss."""
    found = {rate: stat for rate, stat in along_rates(cells).items() if stat}
    rate = min(found, key=lambda value: found[value].mean, default=None)
    return rate, None if rate is None else found[rate]


def _at_best(cells: Sequence[CellResult]) -> Outcome:
    """The loss at the best learning rate; where it is finite at none, the net trains to nothing, as if it diverged.

    The best one cannot be told while cells are missing.
    """
    missing = len(cells) - len(ran(cells))
    rate, stat = best_rate(cells)
    gone, edge = lost(cells) if stat else "trains at no learning rate", at_edge(rate, along_rates(cells))
    return Outcome(stat, 0 if stat else len(ran(cells)), missing, gone, cells, edge)


def _below(what: str, facts: Sequence[CellResult], metrics: Sequence[str]) -> Check:
    text = f"{what}: off by less than {LIMIT:g}"
    values = [record.metrics.get(metric) for record in facts for metric in metrics]
    if not values:
        return Check(text, None, "no such cells")
    if any(metric not in record.metrics for record in facts for metric in metrics):
        return Check(text, None, "not in these records")
    worst = max(float("inf") if value is None else value for value in values)
    return Check(text, worst < LIMIT, f"{worst:.1g}")


def _in_range(facts: Sequence[CellResult]) -> Check:
    text = f"min-max: from 0 to 1, off by less than {LIMIT:g}"
    ends = [(record.metrics.get("minmax_min"), record.metrics.get("minmax_max")) for record in facts]
    if not ends:
        return Check(text, None, "no such cells")
    holds = all(None not in (low, high) and abs(low) < LIMIT and abs(high - 1) < LIMIT for low, high in ends)  # type: ignore[arg-type, operator]
    return Check(text, holds, "; ".join(f"from {low:g} to {high:g}" for low, high in ends))


def _example(facts: Sequence[CellResult]) -> Check:
    text = f"the vector of ten that a tutorial prints as normalized by L2 has length 1, off by less than {OFF:g}"
    length = next((record.metrics.get("example_length") for record in facts), None)
    if length is None:
        return Check(text, None, "no such cells")
    found = f"length {length:.4f}"
    arrays: Mapping[str, Any] = next(
        (a for record in facts if record.folder and (a := read_recording(record.folder))), {}
    )
    if "example_l2" in arrays:
        true = ", ".join(f"{value:.3f}" for value in arrays["example_l2"])
        found += f", every number {1 / length:.1f} times too small; normalized it reads {true}"
    return Check(text, abs(length - 1) < OFF, found)


def _crosses(axes: "Axes", cells: Sequence[CellResult], name: str) -> bool:
    """On the upper edge, at the learning rates where the loss of some seed was not finite; whether there are any."""
    order = list(NAMES).index(name) - (len(NAMES) - 1) / 2
    lost = [rate * 1.3**order for rate, stat in along_rates(cells).items() if stat is None]
    mark_lost(axes, lost, NAMES[name][1])
    return bool(lost)


def _histogram(axes: "Axes", arrays: Mapping[str, Any], name: str, color: str) -> None:
    if f"{name}_histogram" in arrays:
        axes.stairs(arrays[f"{name}_histogram"], arrays[f"{name}_edges"], fill=True, color=color)
        axes.set_yscale("log")
    axes.set_xlabel("value")
