"""Checks that set two arms of an experiment against each other."""

from collections.abc import Callable
from typing import Literal

from normzoo.claims._cells import Outcome
from normzoo.claims._finding import Check
from normzoo.report.series import Stat, pooled_std

Better = Literal["low", "high"] | None


def judged(better: Outcome, worse: Outcome, holds: Callable[[Stat, Stat], bool]) -> bool | None:
    """Whether one arm is better than the other, as is claimed.

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


def on_arms(check: Check, *arms: Outcome) -> Check:
    """The check, judged on the cells of these arms; how good a best is matters only beside another one."""
    edge = next((arm.edge for arm in arms if arm.edge), "") if all(arm.stat for arm in arms) else ""
    return check.on([record for arm in arms for record in arm.cells], edge)


def below(arm: Outcome, limit: float) -> bool | None:
    """Whether the mean lies below a limit; it does not where cells diverged, and None where there is none."""
    if arm.diverged:
        return False
    return None if arm.missing or arm.stat is None else arm.stat.mean < limit


def exceeds(
    what: str,
    high: Outcome,
    low: Outcome,
    *,
    by: float = 0.0,
    stds: float = 1.0,
    unit: str = "",
    digits: int = 1,
    better: Better = "low",
) -> Check:
    """That `high` lies above `low` by more than a distance and by more than some standard deviations over seeds.

    Args:
        what: The statement, to which the thresholds are added.
        high, low: The two arms; without one of them nothing is measured.
        by: The distance.
        stds: How many pooled standard deviations; with one seed each there is none to ask for.
        unit, digits: Of the figures.
        better: Which of the arms the claim has for the better one, see `judged`; None for a quantity of which a cell
            that diverged tells neither: the check does not hold with such cells.
    """
    asked = [f"by more than {by:g}{f' {unit}' if unit else ''}"] if by else []
    asked += [f"by more than {stds:g} × the pooled seed std"] if stds else []
    what = f"{what} {' and '.join(asked)}".rstrip()

    def above(high: Stat, low: Stat) -> bool:
        gap = high.mean - low.mean
        return gap > by and gap > stds * (pooled_std(high, low) or 0.0)

    found, narrow = f"{show(high, digits)} against {show(low, digits)}", False
    if high.stat is not None and low.stat is not None:
        spread = pooled_std(high.stat, low.stat)
        gap, std = high.stat.mean - low.stat.mean, spread or 0.0
        narrow = not (high.diverged or low.diverged) and abs(gap - max(by, stds * std)) < std
        found += f": {gap:+.{digits}f}{f' {unit}' if unit else ''}"
        if stds:
            found += "; one seed has no std" if spread is None else f"; pooled std {spread:.{digits}f}"
    return on_arms(Check(what, _compared(high, low, better, above), found.replace("-", "−"), narrow), high, low)


def times(what: str, high: Outcome, low: Outcome, factor: float, *, digits: int = 1, better: Better = "low") -> Check:
    """That `high` is at least `factor` times `low`, as means over seeds.

    Args:
        what: The statement, to which the factor is added.
        high, low: The two arms; without one of them nothing is measured.
        factor: Above 1.
        digits: Of the figures.
        better: As in `exceeds`.
    """
    what = f"{what} by a factor of {factor:g} or more"
    found = f"{show(high, digits)} against {show(low, digits)}"
    if high.stat is not None and low.stat is not None:
        ratio = high.stat.mean / low.stat.mean if low.stat.mean else float("inf")
        found += f": × {ratio:.{1 if ratio < 10 else 0}f}"

    def larger(high: Stat, low: Stat) -> bool:
        return high.mean >= factor * low.mean and high.mean > 0

    return on_arms(Check(what, _compared(high, low, better, larger), found), high, low)


def show(value: Outcome | Stat | None, digits: int = 1) -> str:
    """Mean ± std, or that there is none; of an arm, also what became of the cells that have no number."""
    if isinstance(value, Outcome):
        if value.stat is None:
            return value.lost or show(None)
        return show(value.stat, digits) + (f" ({value.lost})" if value.lost else "")
    if value is None:
        return "no number"
    return f"{value.mean:.{digits}f}" + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def _compared(high: Outcome, low: Outcome, better: Better, holds: Callable[[Stat, Stat], bool]) -> bool | None:
    if better is None and (high.diverged or low.diverged):
        return False
    if better == "high":
        return judged(high, low, holds)
    return judged(low, high, lambda low, high: holds(high, low))
