"""What lies between training and validation with BatchNorm, dropout, both and neither; and the noise of the batches."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import Metric, Outcome, curves, entry, lost, outcome, split, spread, text, where
from normzoo.claims._compare import exceeds, judged, on_arms, show
from normzoo.claims._draw import band, log_scale, whole_ticks
from normzoo.claims._finding import Check, Finding
from normzoo.report.series import Stat
from normzoo.report.style import matplotlib_arguments, norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLAIN, BN, QUIET = "identity", "batch_norm", "group_norm"
BATCH, DROPOUT, NOISE = "batch_size_per_device", "model.dropout", "statistic_noise_mean"
ERROR = "val_error_running"


def judge(records: Sequence[CellResult]) -> Finding:
    """The gap and the error per norm and dropout at one batch size; noise and gap of BatchNorm over the batch size."""
    usual = where(records, batch_size_per_device=_usual(records))
    arms = {(norm, drops): _arm(usual, norm, drops) for norm in (PLAIN, BN, QUIET) for drops in (False, True)}
    gaps = {key: outcome(cells, gap) for key, cells in arms.items()}
    errors = {key: outcome(cells, ERROR) for key, cells in arms.items()}
    plain, dropped, bn, both = (PLAIN, False), (PLAIN, True), (BN, False), (BN, True)
    checks = [
        exceeds(
            "validation error less training error is higher without BN",
            gaps[plain], gaps[bn], unit="points", better=None,
        ),
        exceeds(
            "validation error with dropout and without BN is higher than with BN and without dropout",
            errors[dropped], errors[bn], unit="points",
        ),
        _no_gain("with BN, dropout does not lower the validation error", errors[bn], errors[both]),
    ]  # fmt: skip
    if any(arms[QUIET, drops] for drops in (False, True)):
        what = "the gap is higher with GroupNorm, which has no noise of the batch, than with BN"
        checks.append(exceeds(what, gaps[QUIET, False], gaps[bn], unit="points", better=None))
    parts = [
        f"{_name(*key)}: gap {show(gaps[key].stat)}, error {text(errors[key].stat, cells, unit='%')}"
        for key, cells in arms.items()
        if cells
    ]
    sizes = _by_batch(records, BN)
    if len(sizes) > 1:
        small, large = sizes[min(sizes)], sizes[max(sizes)]
        of = f"BN at batch {min(sizes)} against {max(sizes)}"
        checks += [
            exceeds(
                f"{of}: batch statistics are noisier",
                outcome(small, NOISE),
                outcome(large, NOISE),
                digits=3,
                better=None,
            ),
            exceeds(f"{of}: the gap is lower", outcome(large, gap), outcome(small, gap), unit="points", better=None),
        ]
        if quiet := _by_batch(records, QUIET).get(min(sizes)):
            what = f"at batch {min(sizes)} the gap is higher with GroupNorm than with BN"
            checks.append(exceeds(what, outcome(quiet, gap), outcome(small, gap), unit="points", better=None))
        noise = "; ".join(
            f"{size}: noise {show(spread(cells, NOISE), 3)} population std, gap {show(spread(cells, gap))}"
            f"{f' ({lost(cells)})' if lost(cells) else ''}"
            for size, cells in sizes.items()
        )
        parts.append(f"BN by batch size: {noise}")
    return Finding("; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Errors by epoch, the gap of each net at the end, and noise and gap over the batch size."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    usual = where(records, batch_size_per_device=_usual(records))
    for norm in split(usual, "norm"):
        cells, style = _arm(usual, norm, False), norm_style(norm)
        if cells:
            looks: dict[str, Any] = {"color": style.color, "lw": 1.2}
            band(left, *curves(cells, "epoch", ERROR), label=style.name, **looks)
            band(left, *curves(cells, "epoch", "train_error"), ls="--", **looks)
    left.plot([], [], color="#767676", ls="--", label="on training images")
    left.set(xlabel="Epoch", ylabel="Error (%), no dropout", ylim=(0, None))
    whole_ticks(left)
    left.set_title("Error by epoch", loc="left")
    left.legend()
    _bars(middle, usual)
    _over_batch(right, records)


def gap(record: CellResult) -> float | None:
    """Validation error less training error, in points, both with running statistics."""
    ends = record.metrics.get(ERROR), record.metrics.get("train_error")
    return None if ends[0] is None or ends[1] is None else ends[0] - ends[1]


def _no_gain(what: str, without: Outcome, with_dropout: Outcome) -> Check:
    def no_lower(without: Stat, with_dropout: Stat) -> bool:
        return not exceeds("", Outcome(without), Outcome(with_dropout)).holds

    lower = exceeds(what, replace(without, cells=()), replace(with_dropout, cells=()), unit="points")
    check = Check(lower.text, judged(without, with_dropout, no_lower), lower.measured, lower.narrow)
    return on_arms(check, without, with_dropout)


def _arm(records: Sequence[CellResult], norm: str, drops: bool) -> list[CellResult]:
    return [record for record in where(records, norm=norm) if bool(entry(record, DROPOUT)) == drops]


def _usual(records: Sequence[CellResult]) -> int | None:
    """The batch size at which the other norms ran too."""
    sizes = [entry(record, BATCH) for record in records if entry(record, "norm.name") != BN]
    return max(set(sizes), key=sizes.count, default=None)


def _by_batch(records: Sequence[CellResult], norm: str) -> dict[int, list[CellResult]]:
    return dict(sorted(split(_arm(records, norm, False), BATCH).items()))


def _name(norm: str, drops: bool) -> str:
    return norm_style(norm).name + (" + dropout" if drops else "")


def _bars(axes: "Axes", usual: Sequence[CellResult]) -> None:
    norms = list(split(usual, "norm"))
    for i, norm in enumerate(norms):
        for drops, offset in ((False, -0.19), (True, 0.19)):
            found = spread(_arm(usual, norm, drops), gap)
            if found:
                color = norm_style(norm).color
                axes.bar(
                    i + offset, found.mean, 0.36, yerr=found.std or 0.0, color="white" if drops else color,
                    edgecolor=color, hatch="///" if drops else None, error_kw={"elinewidth": 0.8, "capsize": 2},
                )  # fmt: skip
    axes.set_xticks(
        range(len(norms)),
        [norm_style(norm).name.replace(" norm", "\nnorm").replace("Norm", "\nNorm") for norm in norms],
    )
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])
    axes.bar(0, 0, color="#767676", label="no dropout")
    axes.bar(0, 0, color="white", edgecolor="#767676", hatch="///", label="dropout")
    axes.set(ylabel="Validation − training error")
    axes.set_title("Gap at the end (points)", loc="left")
    axes.legend(loc="upper right")


def _over_batch(axes: "Axes", records: Sequence[CellResult]) -> None:
    twin = axes.twinx()
    sizes = _by_batch(records, BN)
    drawn: list[tuple[Axes, str, Metric, str, str]] = [
        (axes, BN, NOISE, "-", "BatchNorm: noise (left)"),
        (twin, BN, gap, "--", "BatchNorm: gap"),
        (twin, QUIET, gap, "--", "GroupNorm: gap"),
    ]
    for on, norm, metric, dash, label in drawn:
        found = [(size, stat) for size, own in _by_batch(records, norm).items() if (stat := spread(own, metric))]
        if not found:
            continue
        looks = {**matplotlib_arguments(norm_style(norm)), "linestyle": dash, "ms": 4}
        if metric is gap:
            looks["markerfacecolor"] = "white"
        on.errorbar(
            [size for size, _ in found], [stat.mean for _, stat in found], [stat.std or 0.0 for _, stat in found],
            elinewidth=0.8, capsize=2, label=label, **looks,
        )  # fmt: skip
    log_scale(axes, "x")
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.minorticks_off()
    for on in (axes, twin):
        on.set_ylim(0, 1.6 * on.get_ylim()[1])
    axes.set(xlabel="Batch size", ylabel="Spread of batch means (std)")
    twin.set_ylabel("Gap (points)")
    twin.grid(False)
    axes.set_title("Noise and gap", loc="left")
    lines, names = (a + b for a, b in zip(*(on.get_legend_handles_labels() for on in (axes, twin)), strict=True))
    axes.legend(lines, names, loc="upper right", fontsize=6)
