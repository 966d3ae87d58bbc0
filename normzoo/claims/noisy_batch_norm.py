"""BatchNorm with noise behind it that shifts distributions at each step, against BatchNorm and no norm."""

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import curves, recorded, show, text, where
from normzoo.claims._checks import Finding, Outcome, exceeds, judged, on_arms, outcome
from normzoo.claims._draw import POPULATION, band, label, legend, log_scale, styled, whole_ticks
from normzoo.report.checks import Check
from normzoo.report.series import Stat
from normzoo.report.style import norm_style

_BN = norm_style("batch_norm")
STYLES = {
    "none": norm_style("identity"),
    "bn": _BN,
    "noisy": replace(_BN, name="noisy BatchNorm", dash=(0, (3, 1.5))),
}
ERROR = POPULATION  # running statistics were taken under noise, and there is none in evaluation


def judge(cells: pd.DataFrame) -> Finding:
    """Judge whether the noise destabilizes the distributions, and whether it costs what BatchNorm gains."""
    arms = _arms(cells)
    drift, loss, error = (
        {name: outcome(own, metric) for name, own in arms.items()}
        for metric in ("activation_drift", "train_loss", ERROR)
    )
    farther = "activations drift farther with noise than without a norm"
    checks = [
        exceeds(farther, drift["noisy"], drift["none"], digits=3, better=None),
        exceeds("training loss is higher without a norm than with noise", loss["none"], loss["noisy"], digits=2),
        _nearer(error["none"], error["bn"], error["noisy"]),
    ]
    parts = [
        f"{STYLES[name].name}: error {text(error[name].stat, own, unit='%')}, "
        f"training loss {show(loss[name].stat, 2)}, drift {show(drift[name].stat, 3)}"
        for name, own in arms.items()
    ]
    return Finding(f"errors with recomputed statistics; {'; '.join(parts)}", checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw drift by step, training loss and error by epoch."""
    figure.set_size_inches(7.2, 2.6)
    drifts, losses, errors = figure.subplots(1, 3)
    for name, own in _arms(cells).items():
        marker = {"marker": "o", "ms": 3, "mfc": "white"} if name == "noisy" else {}
        line = styled(STYLES[name], marked=False, lw=1.3, **marker)
        band(drifts, recorded(own, "activation_step", lambda arrays: arrays["activation_drift"].mean(1)), **line)
        band(losses, curves(own, "epoch", "train_loss"), **line)
        band(errors, curves(own, "epoch", ERROR), **line)
    label(drifts, "Drift of activations", "Optimizer step", "Drift, in standard deviations")
    label(losses, "Training loss", "Epoch", "Cross-entropy")
    label(errors, "Error, recomputed statistics", "Epoch", "Validation error (%)")
    whole_ticks(losses, errors)
    for axes in (losses, errors, drifts):
        log_scale(axes, "y")
    legend(losses, loc="lower left")


def _arms(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    bn = where(cells, norm="batch_norm")
    probes = [record.config.get("probe") or {} for record in bn.record]
    noisy = pd.Series([probe.get("output_noise") is not None for probe in probes], bn.index, dtype=bool)
    return {"none": where(cells, norm="identity"), "bn": bn[~noisy], "noisy": bn[noisy]}


def _nearer(none: Outcome, bn: Outcome, noisy: Outcome) -> Check:
    what = "the noisy net's error is nearer to BatchNorm's than to that without a norm, which is the higher one"
    found = f"no norm {none.show()} %, noisy {noisy.show()} %, BatchNorm {bn.show()} %"
    higher = judged(bn, none, lambda bn, none: none.mean > bn.mean)

    def nearer(noisy: Stat, none: Stat) -> bool:
        return bn.stat is not None and noisy.mean < (none.mean + bn.stat.mean) / 2

    return on_arms(Check(what, higher and judged(noisy, none, nearer), found), none, bn, noisy)
