"""BatchNorm with noise behind it that shifts distributions at each step, against BatchNorm and no norm."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import Outcome, curves, entry, outcome, text, where
from normzoo.claims._compare import exceeds, judged, on_arms, show
from normzoo.claims._draw import band, legend, log_scale, whole_ticks
from normzoo.claims._finding import Check, Finding
from normzoo.claims._recorded import series
from normzoo.report.series import Stat
from normzoo.report.style import norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"none": "no norm", "bn": "BatchNorm", "noisy": "noisy BatchNorm"}
ERROR = "val_error_population"  # running statistics were taken under noise, and there is none in evaluation


def judge(records: Sequence[CellResult]) -> Finding:
    """Whether the noise destabilizes the distributions, and whether it costs what BatchNorm gains."""
    arms = _arms(records)
    drift, loss, error = (
        {name: outcome(cells, metric) for name, cells in arms.items()}
        for metric in ("activation_drift", "train_loss", ERROR)
    )
    checks = [
        exceeds(
            "activations drift farther with noise than without a norm",
            drift["noisy"], drift["none"], digits=3, better=None,
        ),
        exceeds("training loss is higher without a norm than with noise", loss["none"], loss["noisy"], digits=2),
        _nearer(error["none"], error["bn"], error["noisy"]),
    ]  # fmt: skip
    parts = [
        f"{NAMES[name]}: error {text(error[name].stat, cells, unit='%')}, training loss {show(loss[name].stat, 2)}, "
        f"drift {show(drift[name].stat, 3)}"
        for name, cells in arms.items()
    ]
    return Finding(f"errors with recomputed statistics; {'; '.join(parts)}", checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Drift by step, training loss and error by epoch."""
    figure.set_size_inches(7.2, 2.6)
    drifts, losses, errors = figure.subplots(1, 3)
    looks: dict[str, dict[str, Any]] = {
        "none": {"color": norm_style("identity").color, "ls": ":"},
        "bn": {"color": norm_style("batch_norm").color, "ls": "-"},
        "noisy": {"color": norm_style("batch_norm").color, "ls": (0, (3, 1.5)), "marker": "o", "ms": 3, "mfc": "white"},
    }
    for name, cells in _arms(records).items():
        line = {**looks[name], "label": NAMES[name], "lw": 1.3}
        band(drifts, *series(cells, "activation_step", lambda arrays: arrays["activation_drift"].mean(1)), **line)
        band(losses, *curves(cells, "epoch", "train_loss"), **line)
        band(errors, *curves(cells, "epoch", ERROR), **line)
    drifts.set(xlabel="Optimizer step", ylabel="Drift, in standard deviations")
    drifts.set_title("Drift of activations", loc="left")
    losses.set(xlabel="Epoch", ylabel="Cross-entropy")
    losses.set_title("Training loss", loc="left")
    errors.set(xlabel="Epoch", ylabel="Validation error (%)")
    errors.set_title("Error, recomputed statistics", loc="left")
    for axes in (losses, errors):
        whole_ticks(axes)
        log_scale(axes, "y")
    if drifts.has_data():
        log_scale(drifts, "y")
    legend(losses, loc="lower left")


def _arms(records: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    bn = where(records, norm="batch_norm")
    return {
        "none": where(records, norm="identity"),
        "bn": [record for record in bn if entry(record, "probe.output_noise") is None],
        "noisy": [record for record in bn if entry(record, "probe.output_noise") is not None],
    }


def _nearer(none: Outcome, bn: Outcome, noisy: Outcome) -> Check:
    text = "the noisy net's error is nearer to BatchNorm's than to that without a norm, which is the higher one"
    found = f"no norm {show(none)} %, noisy {show(noisy)} %, BatchNorm {show(bn)} %"
    higher = judged(bn, none, lambda bn, none: none.mean > bn.mean)

    def nearer(noisy: Stat, none: Stat) -> bool:
        return bn.stat is not None and noisy.mean < (none.mean + bn.stat.mean) / 2

    return on_arms(Check(text, higher and judged(noisy, none, nearer), found), none, bn, noisy)
