"""What the sweep is meant to show, judged by its figures: every verdict is computed from the rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal

from normzoo.report.chance import none_learned
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

UNKNOWN: Final = "cannot be told"
FAILED = ("error", "killed", "oom", "timeout")
Verdict = Literal["holds", "does not hold", "cannot be told"]

SMALL, LARGE = 2, 32
BATCH_NORM_GAP, BATCH_NORM_STDS, GROUP_NORM_GAP = 10.0, 5.0, 2.0


@dataclass(frozen=True)
class Check:
    """A claim, its verdict, and the figures the verdict rests on."""

    claim: str
    verdict: Verdict
    figures: str


def run_checks(table: Table) -> list[Check]:
    """Judge three claims in every setting that has cells for them, at both batches; leave out others."""
    judged = [*_over_batch(table, "batch_norm"), *_over_batch(table, "group_norm"), *_larger_maps(table)]
    return [_if_learned(check, points) for check, points in judged]


def _if_learned(check: Check, points: Sequence[Point | None]) -> Check:
    """The check; of nets that only guess it cannot be told."""
    why = none_learned(record for point in points if point for record in point.cells.record)
    return replace(check, verdict=UNKNOWN, figures=f"{why}; {check.figures}") if why else check


def _over_batch(table: Table, norm: str) -> list[tuple[Check, Sequence[Point | None]]]:
    grids = [setting for setting in table.settings if {SMALL, LARGE} <= batch_sizes(table, setting)]
    lines = [line for setting in grids for line in batch_lines(table, setting) if line.norm == norm and line.ran]
    complete = [line for line in lines if line.at(SMALL) and line.at(LARGE)]
    judge = _batch_norm_falls if norm == "batch_norm" else _group_norm_stays
    chosen = [(line, line.at(SMALL), line.at(LARGE)) for line in complete or lines[:1]]
    return [(judge(line, small, large, _name(line)), (small, large)) for line, small, large in chosen]


def _batch_norm_falls(line: Line, small: Point | None, large: Point | None, name: str) -> Check:
    claim = (
        f"{name}: the error at batch {SMALL} exceeds that at {LARGE} by at least {BATCH_NORM_GAP:g} points "
        f"and by {BATCH_NORM_STDS:g} × the standard deviation over seeds"
    )
    if small is None or large is None:
        return Check(claim, UNKNOWN, _absent(line))
    cut_short = _cut_short(claim, [small, large], may_diverge=[small])
    if cut_short:
        return cut_short
    if small.stat is None or large.stat is None:
        return Check(claim, "holds", f"every cell at batch {SMALL} diverged; at {LARGE} {_shown(large)}")
    gap, spread = small.stat.mean - large.stat.mean, pooled_std(small.stat, large.stat)
    figures = f"{_shown(small)} − {_shown(large)} = {_signed(gap, 1)} points"
    if spread is None:
        return Check(claim, UNKNOWN, f"{figures}; a spread needs more than one seed{_missing(line)}")
    holds = gap >= BATCH_NORM_GAP and gap >= BATCH_NORM_STDS * spread
    figures += f"; {BATCH_NORM_STDS:g} × the standard deviation = {BATCH_NORM_STDS * spread:.1f}{_missing(line)}"
    return Check(claim, "holds" if holds else "does not hold", figures)


def _group_norm_stays(line: Line, small: Point | None, large: Point | None, name: str) -> Check:
    claim = f"{name}: the errors at batch {SMALL} and {LARGE} differ by less than {GROUP_NORM_GAP:g} points"
    if small is None or large is None:
        return Check(claim, UNKNOWN, _absent(line))
    cut_short = _cut_short(claim, [small, large])
    if cut_short:
        return cut_short
    assert small.stat is not None
    assert large.stat is not None
    gap = small.stat.mean - large.stat.mean
    figures = f"{_shown(small)} − {_shown(large)} = {_signed(gap, 1)} points{_missing(line)}"
    return Check(claim, "holds" if abs(gap) < GROUP_NORM_GAP else "does not hold", figures)


def _cut_short(claim: str, points: Sequence[Point], may_diverge: Sequence[Point] = ()) -> Check | None:
    """What is said without comparing errors: that seeds diverged where none may, or that cells failed."""
    states = [
        f"{_shown(point)} at {point.x}" + "".join(f", {count} {status}" for status, count in point.missing)
        for point in points
    ]
    if any(point.count("diverged") for point in points if point not in may_diverge):
        return Check(claim, "does not hold", "; ".join(states))
    if any(point.count(*FAILED) for point in points):
        return Check(claim, UNKNOWN, "; ".join(states))
    return None


def _shown(point: Point) -> str:
    return show(point.stat) if point.stat else "no error"


def _larger_maps(table: Table) -> list[tuple[Check, Sequence[Point | None]]]:
    """Where even the smallest normalized map has several positions, statistics have more values than samples."""
    checks: list[tuple[Check, Sequence[Point | None]]] = []
    for setting in table.settings:
        lines = normalization_lines(table, setting)
        found = [line for line in lines if (positions(line) or 1) > 1 and len(line.points) > 1]
        checks += [(_falls_steadily(line, table), line.points) for line in found]
    return checks


def _falls_steadily(line: Line, table: Table) -> Check:
    claim = (
        f"{_name(line)}, {line.step_batch} samples a step: the mean error falls each time that more samples "
        f"share a statistic (the smallest normalized map has {positions(line)} positions)"
    )
    points = line.measured
    if len(points) < 3:
        return Check(claim, UNKNOWN, f"measured at {len(points)} normalization batches; needs 3")
    cut_short = _cut_short(claim, line.points)
    if cut_short:
        return cut_short
    steps = [
        f"{a}→{b} {_signed(later.mean - earlier.mean, 2)}" + ("" if later.mean < earlier.mean else " (not down)")
        for (a, earlier), (b, later) in pairwise(points)
    ]
    steady = all(later.mean < earlier.mean for (_, earlier), (_, later) in pairwise(points))
    first, last = points[0][1], points[-1][1]
    figures = (
        f"{'; '.join(steps)}; end to end {show(first)} → {show(last)}: {_signed(last.mean - first.mean, 2)} points"
    )
    flat = [
        f"{other.variant} {show(other.points[-1].stat)}"
        for other in flat_references(table, line.setting, [line.step_batch])
        if other.points[-1].stat
    ]
    figures += f"; beside it {', '.join(flat)}" if flat else ""
    return Check(claim, "holds" if steady else "does not hold", figures + _missing(line))


def show(value: Stat) -> str:
    """A statistic as text, in the unit of its values."""
    return f"{value.mean:.1f}" if value.std is None else f"{value.mean:.1f} ± {value.std:.1f}"


def _signed(points: float, digits: int) -> str:
    return f"{points:+.{digits}f}".replace("-", "−")


def _name(line: Line) -> str:
    devices = f", {line.devices} devices" if line.devices else ""
    label = f", {line.setting.label}" if line.setting.label else ""
    return f"{line.variant}{label}{devices}"


def _absent(line: Line) -> str:
    have = ", ".join(str(x) for x, _ in line.measured) or "none"
    return f"measured at batch {have}; needs {SMALL} and {LARGE}{_missing(line)}"


def _missing(line: Line) -> str:
    left_out: dict[str, int] = {}
    for point in line.points:
        for status, count in point.missing:
            left_out[status] = left_out.get(status, 0) + count
    return "".join(f"; {count} {status} left out" for status, count in left_out.items())
