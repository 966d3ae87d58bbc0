"""Whitening learns faster than standardizing and ends at a lower error, and costs more."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import curves, outcome, text, where
from normzoo.claims._compare import exceeds, show, times
from normzoo.claims._draw import band, legend, log_scale, whole_ticks
from normzoo.claims._finding import Check, Finding
from normzoo.claims._recorded import series
from normzoo.report.style import BLUE, GREEN, Style, norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ERROR = "val_error_running"
COSTS = 1.1  # how many times the step of BatchNorm a step is to take at least, to cost more
LESS = 2.0  # by what factor the correlation is to be lower
_STYLES = {
    "batch_norm": norm_style("batch_norm"),
    "decorrelated_batch_norm": Style("Decorrelated BN", BLUE, "s", "--"),
    "iter_norm": Style("IterNorm", GREEN, "^", "-."),
}
WHITENING = ("decorrelated_batch_norm", "iter_norm")


def judge(records: Sequence[CellResult]) -> Finding:
    """Error after the first epoch and at the end, correlation, and time of a step, of both against BatchNorm."""
    cells = {norm: where(records, norm=norm) for norm in _STYLES}
    first, last, correlation = (
        {norm: outcome(own, metric) for norm, own in cells.items()} for metric in (_first, ERROR, "channel_correlation")
    )
    fastest = {norm: _fastest(own) for norm, own in cells.items()}
    bn, checks = "batch_norm", []
    for norm in WHITENING:
        name = _STYLES[norm].name
        checks += [
            times(
                f"BN's channels are more correlated than {name}'s",
                correlation[bn], correlation[norm], LESS, digits=2, better=None,
            ),
            exceeds(f"after the first epoch the error is higher with BN than with {name}", first[bn], first[norm]),
            exceeds(f"at the end the error is higher with BN than with {name}", last[bn], last[norm]),
            _costs(name, fastest[bn], fastest[norm]).on([*cells[bn], *cells[norm]]),
        ]  # fmt: skip
    parts = []
    for norm, own in cells.items():
        if own:
            ms = fastest[norm]
            ratio = f", {ms / base:.2f} × BN's step" if ms and (base := fastest[bn]) and norm != bn else ""
            parts.append(
                f"{_STYLES[norm].name}: error {text(last[norm].stat, own, unit='%')}, after one epoch "
                f"{show(first[norm].stat)} %, correlation {show(correlation[norm].stat, 2)}{ratio}"
            )
    return Finding("; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Error by epoch, correlation by layer, and the time of a step."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.1, 1.1, 1))
    for norm, style in _STYLES.items():
        own = where(records, norm=norm)
        looks: dict[str, Any] = {
            "color": style.color,
            "marker": style.marker,
            "ms": 3.0,
            "lw": 1.2,
            "label": style.name,
        }
        band(left, *curves(own, "epoch", ERROR), ls=style.dash, **looks)
        band(middle, *series(own, "", lambda arrays: arrays["correlation_mean"]), ls=style.dash, **looks)
    for axes in (left, middle):
        if axes.has_data():
            log_scale(axes, "y")
        whole_ticks(axes)
    left.set(xlabel="Epoch", ylabel="Validation error (%)")
    left.set_title("Effect", loc="left")
    legend(left)
    middle.set(xlabel="Norm layer", ylabel="Mean |correlation| of two channels")
    middle.set_title("What it is for", loc="left")
    _times(right, {norm: where(records, norm=norm) for norm in _STYLES})


def _times(axes: "Axes", cells: Mapping[str, Sequence[CellResult]]) -> None:
    for row, (norm, own) in enumerate(cells.items()):
        fastest = _fastest(own)
        if fastest is not None:
            axes.barh(row, fastest, color=_STYLES[norm].color, height=0.5)
            axes.text(fastest, row, f" {fastest:.1f} ms", va="center", fontsize=7)
    axes.set_yticks(range(len(cells)), [_STYLES[norm].name for norm in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_xlim(right=axes.get_xlim()[1] * 1.25)
    axes.set_xlabel("Time of a step (ms),\nfastest seed")
    axes.set_title("Cost", loc="left")


def _first(record: CellResult) -> float | None:
    return record.curve[0].get(ERROR) if record.curve else None


def _fastest(cells: Sequence[CellResult]) -> float | None:
    """Milliseconds of a step; what else a machine does makes steps slower, never faster."""
    found = [float(ms) for record in cells if record.status == "ok" and (ms := record.time.get("ms_per_step"))]
    return min(found, default=None)


def _costs(name: str, bn: float | None, other: float | None) -> Check:
    what = f"a step with {name} takes {COSTS:g} × as long as with BN or longer, each at its fastest seed"
    if bn is None or other is None:
        return Check(what, None, "no such cells")
    return Check(what, other >= COSTS * bn, f"{other:.1f} against {bn:.1f} ms: × {other / bn:.2f}")
