"""Whitening learns faster than standardizing and ends at a lower error, and costs more."""

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import curves, recorded, show, text, where
from normzoo.claims._checks import Finding, exceeds, outcome, times
from normzoo.claims._draw import RUNNING, band, label, legend, log_scale, name_rows, styled, whole_ticks
from normzoo.report.checks import Check
from normzoo.report.style import BLUE, GREEN, Style, norm_style
from normzoo.results import CellResult

BN = "batch_norm"
COSTS = 1.1  # how many times the step of BatchNorm a step is to take at least, to cost more
LESS = 2.0  # by what factor the correlation is to be lower
_STYLES = {
    BN: norm_style(BN),
    "decorrelated_batch_norm": Style("Decorrelated BN", BLUE, "s", "--"),
    "iter_norm": Style("IterNorm", GREEN, "^", "-."),
}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge error after the first epoch and at the end, correlation, and time of a step, of both against BatchNorm."""
    arms = {norm: where(cells, norm=norm) for norm in _STYLES}
    first, last, correlation = (
        {norm: outcome(own, metric) for norm, own in arms.items()}
        for metric in (_first, RUNNING, "channel_correlation")
    )
    fastest = {norm: _fastest(own) for norm, own in arms.items()}
    checks, parts = [], []
    for norm, own in arms.items():
        name, ms, base = _STYLES[norm].name, fastest[norm], fastest[BN]
        if norm != BN:
            correlated = f"BN's channels are more correlated than {name}'s"
            checks += [
                times(correlated, correlation[BN], correlation[norm], LESS, digits=2, better=None),
                exceeds(f"after the first epoch the error is higher with BN than with {name}", first[BN], first[norm]),
                exceeds(f"at the end the error is higher with BN than with {name}", last[BN], last[norm]),
                _costs(name, base, ms).on([*arms[BN].record, *own.record]),
            ]
        if len(own):
            ratio = f", {ms / base:.2f} × BN's step" if ms and base and norm != BN else ""
            parts.append(
                f"{name}: error {text(last[norm].stat, own, unit='%')}, after one epoch {show(first[norm].stat)} %, "
                f"correlation {show(correlation[norm].stat, 2)}{ratio}"
            )
    return Finding("; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the error by epoch, correlation by layer, and the time of a step."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.1, 1.1, 1))
    for row, (norm, style) in enumerate(_STYLES.items()):
        own = where(cells, norm=norm)
        band(left, curves(own, "epoch", RUNNING), **styled(style))
        band(middle, recorded(own, "", lambda arrays: arrays["correlation_mean"]), **styled(style))
        fastest = _fastest(own)
        if fastest is not None:
            right.barh(row, fastest, color=style.color, height=0.5)
            right.text(fastest, row, f" {fastest:.1f} ms", va="center", fontsize=7)
    for axes in (left, middle):
        log_scale(axes, "y")
    whole_ticks(left, middle)
    label(left, "Effect", "Epoch", "Validation error (%)")
    legend(left)
    label(middle, "What it is for", "Norm layer", "Mean |correlation| of two channels")
    name_rows(right, [style.name for style in _STYLES.values()])
    right.set_xlim(right=right.get_xlim()[1] * 1.25)
    label(right, "Cost", "Time of a step (ms),\nfastest seed")


def _first(record: CellResult) -> float | None:
    return record.curve[0].get(RUNNING) if record.curve else None


def _fastest(cells: pd.DataFrame) -> float | None:
    """Return the milliseconds of a step; what else a machine does makes steps slower, never faster."""
    found = [float(ms) for record in cells.record if record.status == "ok" and (ms := record.time.get("ms_per_step"))]
    return min(found, default=None)


def _costs(name: str, bn: float | None, other: float | None) -> Check:
    what = f"a step with {name} takes {COSTS:g} × as long as with BN or longer, each at its fastest seed"
    if bn is None or other is None:
        return Check(what, None, "no such cells")
    return Check(what, other >= COSTS * bn, f"{other:.1f} against {bn:.1f} ms: × {other / bn:.2f}")
