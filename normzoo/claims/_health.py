"""What the claims on saturated and on dead activations have in common."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import Outcome, lost, ran, split
from normzoo.claims._compare import judged, on_arms, show
from normzoo.claims._draw import band, log_scale
from normzoo.claims._finding import Check
from normzoo.claims._recorded import Arrays, recordings, series
from normzoo.report.series import over_seeds
from normzoo.report.style import norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def last_share(records: Sequence[CellResult], name: str) -> Outcome:
    """Mean over layers of a share, in percent, at the last measurement that has one; a diverged cell has an earlier."""
    return over_cells(records, lambda arrays: 100 * _last_finite(arrays[f"health_{name}"].mean(1)))


def over_cells(records: Sequence[CellResult], value: Callable[[Arrays], float]) -> Outcome:
    """One number out of each cell's arrays, over seeds; cells that diverged included, and counted as such."""
    seeds: dict[int, list[float]] = {}
    without = {record.cell for record in records if record.status != "diverged"}
    for record, arrays in recordings(ran(records)):
        found = value(arrays)
        if found == found:
            seeds.setdefault(record.seed, []).append(found)
            without.discard(record.cell)
    diverged = sum(record.status == "diverged" for record in records)
    return Outcome(over_seeds(seeds), diverged, len(without), lost(records), records)


def kept_low(what: str, plain: Outcome, bn: Outcome, least: float, factor: float) -> Check:
    """That a share is large without a norm, and with BatchNorm a fraction of that.

    Args:
        what: Whose share.
        plain, bn: In percent.
        least: Percent that it takes for something to be prevented at all.
        factor: What the share is to be divided by at least.
    """
    what = f"{what}: {least:g} % or more without a norm, and with BatchNorm at most 1/{factor:g} of that"
    found = f"{show(plain)} % against {show(bn)} %"
    if plain.diverged and plain.stat is None:  # that there was something to prevent is not shown
        return on_arms(Check(what, False, found), plain, bn)
    holds = judged(bn, plain, lambda bn, plain: plain.mean >= least and bn.mean * factor <= plain.mean)
    return on_arms(Check(what, holds, found), plain, bn)


def share_by_step(axes: "Axes", records: Sequence[CellResult], name: str, **looks: Any) -> None:
    """The mean share over layers by step, in percent, a line a norm."""
    for norm, cells in split(records, "norm").items():
        style = norm_style(norm)
        line = series(cells, "health_step", lambda arrays: 100 * arrays[f"health_{name}"].mean(1))
        line_looks = {"color": style.color, "ls": style.dash, "lw": 1.2, "label": style.name, **looks}
        band(axes, *line, within=(0, 100), **line_looks)


def share_by_layer(axes: "Axes", records: Sequence[CellResult], name: str) -> None:
    """The share of each layer at the last measurement without nan, in percent, a line a norm."""

    def last_row(arrays: Arrays) -> list[float]:
        rows = [row for row in arrays[f"health_{name}"] if not any(value != value for value in row)]
        return [100 * float(value) for value in rows[-1]] if rows else []

    for norm, cells in split(records, "norm").items():
        style = norm_style(norm)
        looks: dict[str, Any] = {"color": style.color, "ls": style.dash, "marker": style.marker, "ms": 3, "lw": 1.1}
        band(axes, *series(cells, "", last_row), within=(0, 100), **looks)


def gone_by_norm(records: Sequence[CellResult]) -> str:
    """` (no norm: 1 diverged)`, for a title; empty where every cell came to its end."""
    lines = [(norm_style(norm).name, lost(cells)) for norm, cells in split(records, "norm").items()]
    named = "; ".join(f"{name}: {gone}" for name, gone in lines if gone)
    return f" ({named})" if named else ""


def gradients_by_layer(axes: "Axes", records: Sequence[CellResult], row: int) -> None:
    """The gradient norm of each layer at one measurement, a line a norm."""
    for norm, cells in split(records, "norm").items():
        style = norm_style(norm)
        line = series(cells, "", lambda arrays: arrays["health_gradient_norms"][row])
        looks: dict[str, Any] = {"color": style.color, "ls": style.dash, "marker": style.marker, "ms": 3, "lw": 1.2}
        band(axes, *line, **looks, label=style.name)
    if axes.has_data():
        log_scale(axes, "y")


def _last_finite(values: Any) -> float:
    finite = [float(value) for value in values if value == value]
    return finite[-1] if finite else float("nan")
