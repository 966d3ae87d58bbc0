"""Judge a claim: set two arms of an experiment against each other, and add the checks up to a verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from normzoo.claims._cells import Metric, lost, ran, recordings, show, split, spread, summary, values
from normzoo.report.checks import Check, at_edge
from normzoo.report.series import Stat, pooled_std
from normzoo.results import CellResult

HOLDS, IN_PART, FAILS, UNMEASURED = "holds", "holds in part", "does not hold here", "not measured"
SO_FAR, UNTOLD = "holds as far as measured", "cannot be told"
Better = Literal["low", "high"] | None


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim, mean ± std over seeds with their number, and the checks that judge it."""

    measured: str
    checks: Sequence[Check]

    @property
    def verdict(self) -> str:
        """Of the checks that can be told all hold, some or none; `cannot be told` or `not measured` without any."""
        told = [check.holds for check in self.checks if check.holds is not None]
        if not told:
            return UNTOLD if any(check.untold for check in self.checks) else UNMEASURED
        if all(told):
            return SO_FAR if len(told) < len(self.checks) else HOLDS
        return IN_PART if any(told) else FAILS

    @property
    def narrow(self) -> int:
        """Checks that other seeds could turn."""
        return sum(check.narrow and check.holds is not None for check in self.checks)

    @property
    def unmeasured(self) -> int:
        """Checks without the cells they need."""
        return sum(check.holds is None and not check.untold for check in self.checks)


@dataclass(frozen=True)
class Outcome:
    """What a check takes of an arm: a metric over seeds, and what became of the cells without one.

    Args:
        stat: Over the cells with a number; None where none has one.
        diverged: How many cells diverged, or in some other way trained to nothing: a result, and a bad one.
        missing: How many have no result: they failed, or ended without this metric.
        lost: The same in words.
        cells: All cells of the arm.
        edge: Why its best learning rate may not be the best there is.
    """

    stat: Stat | None = None
    diverged: int = 0
    missing: int = 0
    lost: str = ""
    cells: Sequence[CellResult] = ()
    edge: str = ""

    def show(self, digits: int = 1) -> str:
        """Write mean ± std, and what became of the cells without a number."""
        if self.stat is None:
            return self.lost or show(None)
        return show(self.stat, digits) + (f" ({self.lost})" if self.lost else "")


def outcome(cells: pd.DataFrame, metric: Metric) -> Outcome:
    """Summarize a metric for a check, which must not pass over the cells without it."""
    return outcome_of(cells, values(cells, metric))


def outcome_of(cells: pd.DataFrame, found: pd.Series) -> Outcome:
    """Summarize one value a cell for a check."""
    bad = cells.status == "diverged"
    return Outcome(
        summary(cells, found), int(bad.sum()), int((found.isna() & ~bad).sum()), lost(cells), list(cells.record)
    )


def last_share(cells: pd.DataFrame, name: str) -> Outcome:
    """Summarize a share over layers, in percent, at the last measurement that has one."""
    return of_arrays(
        cells, lambda arrays: 100 * pd.Series(arrays[f"health_{name}"].mean(1)).dropna().iloc[-1:].sum(min_count=1)
    )


def of_arrays(cells: pd.DataFrame, value: Callable[[dict[str, Any]], float]) -> Outcome:
    """Summarize one number out of each cell's arrays; those of cells that diverged are included."""
    found = {record.cell: value(arrays) for record, arrays in recordings(ran(cells))}
    return outcome_of(cells, cells.record.map(lambda record: found.get(record.cell)).astype(float))


def at_best(
    cells: pd.DataFrame, key: str, metric: Metric, usable: Callable[[pd.DataFrame], bool], nowhere: str = ""
) -> tuple[Any, Outcome]:
    """Take the lowest of a metric over a setting, among the values whose cells are all usable.

    Where none is, the net trains to nothing, as if it diverged. The best one cannot be told while cells are missing.

    Args:
        cells: The cells.
        key: The setting.
        metric: The metric.
        usable: Whether these cells, of one value, are.
        nowhere: What to say where no value is.

    Returns:
        The value of the setting, None where no cells are usable, and the outcome there.
    """
    tried = dict(sorted(split(cells, key).items()))
    found = {value: spread(own, metric) for value, own in tried.items() if usable(own)}
    means = {value: stat.mean for value, stat in found.items() if stat}
    best = min(means, key=means.__getitem__, default=None)
    count = len(ran(cells))
    gone = lost(cells) if means or not nowhere else nowhere
    missing, edge = len(cells) - count, at_edge(best, tried)
    return best, Outcome(found.get(best), 0 if means else count, missing, gone, list(cells.record), edge)


def judged(better: Outcome, worse: Outcome, holds: Callable[[Stat, Stat], bool]) -> bool | None:
    """Judge whether one arm is better than the other, as is claimed.

    A cell that diverged in the arm claimed better contradicts it. Of the other arm those that did not diverge stand for
    all, which is to its advantage; where all diverged, it is the worse one.

    Args:
        better: The arm claimed better.
        worse: The other.
        holds: The claim in numbers, of `better` and `worse`.

    Returns:
        None where an arm has no cells, or cells that failed.
    """
    if better.diverged:
        return False
    if better.missing or worse.missing or better.stat is None:
        return None
    if worse.stat is None:
        return True if worse.diverged else None
    return holds(better.stat, worse.stat)


def measured(holds: Callable[..., bool], *arms: Outcome) -> bool | None:
    """Judge the statistics of arms: false where a cell diverged, None where one failed or there are none."""
    if any(arm.diverged for arm in arms):
        return False
    if any(arm.missing or arm.stat is None for arm in arms):
        return None
    return holds(*(arm.stat for arm in arms))


def on_arms(check: Check, *arms: Outcome) -> Check:
    """Judge the check on the cells of these arms; how good a best is matters only beside another one."""
    edge = next((arm.edge for arm in arms if arm.edge), "") if all(arm.stat for arm in arms) else ""
    return check.on([record for arm in arms for record in arm.cells], edge)


def exceeds(
    what: str,
    high: Outcome,
    low: Outcome,
    *,
    by: float = 0.0,
    unit: str = "",
    digits: int = 1,
    better: Better = "low",
) -> Check:
    """Check that `high` lies above `low` by more than a distance and by more than the pooled standard deviation.

    Args:
        what: The statement, to which the thresholds are added.
        high: The one arm; without one of them nothing is measured.
        low: The other.
        by: The distance; with one seed each it is all that is asked for.
        unit: Of the figures.
        digits: Of the figures.
        better: Which of the arms the claim has for the better one, see `judged`; None for a quantity of which a cell
            that diverged tells neither: the check does not hold with such cells.
    """
    distance = f" by more than {by:g}{f' {unit}' if unit else ''} and" if by else ""
    what = f"{what}{distance} by more than 1 × the pooled seed std"

    def above(high: Stat, low: Stat) -> bool:
        gap = high.mean - low.mean
        return gap > by and gap > (pooled_std(high, low) or 0.0)

    found, narrow = f"{high.show(digits)} against {low.show(digits)}", False
    if high.stat is not None and low.stat is not None:
        pooled = pooled_std(high.stat, low.stat)
        gap, std = high.stat.mean - low.stat.mean, pooled or 0.0
        narrow = not (high.diverged or low.diverged) and abs(gap - max(by, std)) < std
        found += f": {gap:+.{digits}f}{f' {unit}' if unit else ''}"
        found += "; one seed has no std" if pooled is None else f"; pooled std {pooled:.{digits}f}"
    return on_arms(Check(what, _compared(high, low, better, above), found.replace("-", "−"), narrow), high, low)


def times(what: str, high: Outcome, low: Outcome, factor: float, *, digits: int = 1, better: Better = "low") -> Check:
    """Check that the mean of `high` is at least `factor` times that of `low`; the arguments are those of `exceeds`."""
    what = f"{what} by a factor of {factor:g} or more"
    found = f"{high.show(digits)} against {low.show(digits)}"
    if high.stat is not None and low.stat is not None:
        ratio = high.stat.mean / low.stat.mean if low.stat.mean else float("inf")
        found += f": × {ratio:.{1 if ratio < 10 else 0}f}"

    def larger(high: Stat, low: Stat) -> bool:
        return high.mean >= factor * low.mean and high.mean > 0

    return on_arms(Check(what, _compared(high, low, better, larger), found), high, low)


def kept_low(what: str, plain: Outcome, bn: Outcome, least: float, factor: float) -> Check:
    """Check that a share is large without a norm, and with BatchNorm a fraction of that.

    Args:
        what: Whose share.
        plain: Without a norm, in percent.
        bn: With BatchNorm.
        least: Percent that it takes for something to be prevented at all.
        factor: What the share is to be divided by at least.
    """
    what = f"{what}: {least:g} % or more without a norm, and with BatchNorm at most 1/{factor:g} of that"
    holds: bool | None = False  # without a number there is nothing that was prevented
    if plain.stat or not plain.diverged:
        holds = judged(bn, plain, lambda bn, plain: plain.mean >= least and bn.mean * factor <= plain.mean)
    return on_arms(Check(what, holds, f"{plain.show()} % against {bn.show()} %"), plain, bn)


def _compared(high: Outcome, low: Outcome, better: Better, holds: Callable[[Stat, Stat], bool]) -> bool | None:
    if better is None and (high.diverged or low.diverged):
        return False
    if better == "high":
        return judged(high, low, holds)
    return judged(low, high, lambda low, high: holds(high, low))
