"""Judge what a sweep is meant to show: every verdict is computed from the records."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from normzoo.report.facets import said
from normzoo.report.frame import Table
from normzoo.report.series import (
    Line,
    Point,
    Stat,
    batch_lines,
    batch_sizes,
    flat_references,
    normalization_lines,
    pooled_std,
    positions,
)
from normzoo.results import CellResult

FAILED = ("error", "killed", "oom", "timeout")
SMALL, LARGE = 2, 32
BATCH_NORM_GAP, BATCH_NORM_STDS, GROUP_NORM_GAP = 10.0, 5.0, 2.0

# Data sets whose records do not state their number of classes.
_CLASSES = {"mnist5k": 10, "mnist": 10, "fashion_mnist": 10, "digits": 10, "cifar10": 10}
_NEAR = 5.0  # points; with many classes, the accuracy of guessing


@dataclass(frozen=True)
class Check:
    """A statement that holds or does not, and the figures that decide it.

    Args:
        text: The statement with its threshold: "batch_norm: error at batch 2 exceeds that at 32 by 10 points or more".
        holds: None if cells are missing or failed, or if the figures cannot tell. Diverged cells are a result.
        measured: The figures.
        narrow: Whether the verdict rests on less than one standard deviation over seeds: other seeds could change it.
        untold: Whether the figures exist, but cannot tell.
    """

    text: str
    holds: bool | None
    measured: str
    narrow: bool = False
    untold: bool = False

    @property
    def verdict(self) -> str:
        """Say whether the statement holds."""
        return {True: "holds", False: "does not hold", None: "cannot be told"}[self.holds]

    def on(self, cells: Iterable[CellResult], edge: str = "") -> "Check":
        """Withdraw the verdict if all nets only guess, or if a best value may not be the best.

        Args:
            cells: All cells compared. A check on whether one arm trains at all is compared with the others.
            edge: The result of `at_edge` for the arms.
        """
        why = none_learned(cells) or edge
        if not why or self.holds is None:
            return self
        return replace(self, holds=None, measured=f"{why}; {self.measured}", untold=True)


def guessing(result: CellResult) -> float | None:
    """Return the error of guessing in percent, if the number of classes is known."""
    data = result.config.get("data")
    config: Any = data if isinstance(data, dict) else {}
    classes = config.get("num_classes") or result.metrics.get("num_classes") or _CLASSES.get(str(config.get("name")))
    return 100.0 * (1 - 1 / classes) if isinstance(classes, (int, float)) and classes >= 1 else None


def learned(result: CellResult) -> bool | None:
    """Return whether a cell was ever clearly better than guessing; None if unknown.

    A net that works with one kind of statistics has learned, however poor it is with another.
    """
    if result.status == "diverged":
        return False
    level = guessing(result)
    errors = [
        value
        for metrics in (result.metrics, *result.curve)
        for name, value in metrics.items()
        if "error" in name and not name.startswith("train") and value is not None
    ]
    if result.status != "ok" or level is None or not errors:
        return None
    return min(errors) < level - min(_NEAR, 100.0 - level)


def none_learned(cells: Iterable[CellResult]) -> str:
    """Say that none of these cells has learned; return an empty text if one has, or if none finished."""
    ended = [cell for cell in cells if cell.status in ("ok", "diverged")]
    if not ended or any(learned(cell) is not False for cell in ended):
        return ""
    levels = sorted({f"{level:.3g}" for cell in ended if (level := guessing(cell)) is not None})
    return f"none of these nets has learned: guessing has an error of {' or '.join(levels) or '?'} %"


def at_edge(rate: float | None, tried: Iterable[float]) -> str:
    """Say that a best learning rate is the smallest or largest tried; return an empty text otherwise."""
    rates = set(tried)
    if rate is None or len(rates) < 2 or min(rates) < rate < max(rates):
        return ""
    return f"the best learning rate, {said(rate)}, is at the edge of those tried"


def run_checks(table: Table) -> list[Check]:
    """Run three checks in every setting that has cells for them at both batch sizes."""
    return [*_over_batch(table, "batch_norm"), *_over_batch(table, "group_norm"), *_larger_maps(table)]


def _over_batch(table: Table, norm: str) -> list[Check]:
    grids = [setting for setting in table.settings if {SMALL, LARGE} <= batch_sizes(table, setting)]
    lines = [line for setting in grids for line in batch_lines(table, setting) if line.norm == norm and line.ran]
    complete = [line for line in lines if line.at(SMALL) and line.at(LARGE)]
    return [_small_and_large(line) for line in complete or lines[:1]]


def _small_and_large(line: Line) -> Check:
    """Compare the errors at the two batch sizes: BatchNorm's differ, those of GroupNorm do not."""
    falls = line.norm == "batch_norm"
    text = (
        f"{_name(line)}: the error at batch {SMALL} exceeds that at {LARGE} by at least {BATCH_NORM_GAP:g} points "
        f"and by {BATCH_NORM_STDS:g} × the standard deviation over seeds"
        if falls
        else f"{_name(line)}: the errors at batch {SMALL} and {LARGE} differ by less than {GROUP_NORM_GAP:g} points"
    )
    small, large = line.at(SMALL), line.at(LARGE)
    if small is None or large is None:
        have = ", ".join(str(x) for x, _ in line.measured) or "none"
        return _unknown(text, f"measured at batch {have}; needs {SMALL} and {LARGE}{_missing(line)}")
    cells = [record for point in (small, large) for record in point.records]
    lost = _without_errors(text, [small, large], may_diverge=[small] if falls else [])
    if lost:
        return lost.on(cells)
    assert large.stat is not None
    if small.stat is None:
        return Check(text, True, f"every cell at batch {SMALL} diverged; at {LARGE} {_shown(large)}").on(cells)
    gap, spread = small.stat.mean - large.stat.mean, pooled_std(small.stat, large.stat)
    measured = f"{_shown(small)} − {_shown(large)} = {_signed(gap, 1)} points"
    if not falls:
        return Check(text, abs(gap) < GROUP_NORM_GAP, measured + _missing(line)).on(cells)
    if spread is None:
        return _unknown(text, f"{measured}; a spread needs more than one seed{_missing(line)}")
    measured += f"; {BATCH_NORM_STDS:g} × the standard deviation = {BATCH_NORM_STDS * spread:.1f}{_missing(line)}"
    return Check(text, gap >= max(BATCH_NORM_GAP, BATCH_NORM_STDS * spread), measured).on(cells)


def _unknown(text: str, measured: str) -> Check:
    return Check(text, None, measured, untold=True)


def _without_errors(text: str, points: Sequence[Point], may_diverge: Sequence[Point] = ()) -> Check | None:
    """Return the verdict that needs no errors: that seeds diverged where none may, or that cells failed."""
    measured = "; ".join(
        f"{_shown(point)} at {point.x}" + "".join(f", {count} {status}" for status, count in point.missing)
        for point in points
    )
    if any(point.count("diverged") for point in points if point not in may_diverge):
        return Check(text, False, measured)
    return _unknown(text, measured) if any(point.count(*FAILED) for point in points) else None


def _larger_maps(table: Table) -> list[Check]:
    """Check lines whose smallest normalized map has several positions: their statistics have more values than samples.

    Their error is to fall each time that more samples share a statistic.
    """
    lines = [line for setting in table.settings for line in normalization_lines(table, setting)]
    found = [line for line in lines if (positions(line) or 1) > 1 and len(line.points) > 1]
    return [
        _falls_steadily(line, table).on(record for point in line.points for record in point.records) for line in found
    ]


def _falls_steadily(line: Line, table: Table) -> Check:
    text = (
        f"{_name(line)}, {line.step_batch} samples a step: the mean error falls each time that more samples "
        f"share a statistic (the smallest normalized map has {positions(line)} positions)"
    )
    points = line.measured
    if len(points) < 3:
        return _unknown(text, f"measured at {len(points)} normalization batches; needs 3")
    lost = _without_errors(text, line.points)
    if lost:
        return lost
    gaps = [(a, b, later.mean - earlier.mean) for (a, earlier), (b, later) in pairwise(points)]
    steps = "; ".join(f"{a}→{b} {_signed(gap, 2)}" + ("" if gap < 0 else " (not down)") for a, b, gap in gaps)
    first, last = points[0][1], points[-1][1]
    flat = [
        f"{other.variant} {show(other.points[-1].stat)}"
        for other in flat_references(table, line.setting, [line.step_batch])
        if other.points[-1].stat
    ]
    whole = f"{show(first)} → {show(last)}: {_signed(last.mean - first.mean, 2)} points"
    beside = f"; beside it {', '.join(flat)}" if flat else ""
    return Check(text, all(gap < 0 for *_, gap in gaps), f"{steps}; end to end {whole}{beside}{_missing(line)}")


def show(value: Stat) -> str:
    """Format mean ± std, in the unit of the values."""
    return f"{value.mean:.1f}" if value.std is None else f"{value.mean:.1f} ± {value.std:.1f}"


def _shown(point: Point) -> str:
    return show(point.stat) if point.stat else "no error"


def _signed(points: float, digits: int) -> str:
    return f"{points:+.{digits}f}".replace("-", "−")


def _name(line: Line) -> str:
    devices = f", {line.devices} devices" if line.devices else ""
    label = f", {line.setting.label}" if line.setting.label else ""
    return f"{line.variant}{label}{devices}"


def _missing(line: Line) -> str:
    left_out: Counter[str] = Counter()
    for point in line.points:
        left_out.update(dict(point.missing))
    return "".join(f"; {count} {status} left out" for status, count in left_out.items())
