"""Checks that set two arms of an experiment against each other."""

from normzoo.report.arms import Stat, pooled_std
from normzoo.report.claims._finding import Check


def exceeds(
    what: str,
    high: Stat | None,
    low: Stat | None,
    *,
    by: float = 0.0,
    stds: float = 1.0,
    unit: str = "",
    digits: int = 1,
) -> Check:
    """That `high` lies above `low` by more than a distance and by more than some standard deviations over seeds.

    Args:
        what: The statement, to which the thresholds are added.
        high, low: The two arms; without one of them nothing is measured.
        by: The distance.
        stds: How many pooled standard deviations; with one seed each there is none to ask for.
        unit, digits: Of the figures.
    """
    asked = [f"by more than {by:g}{f' {unit}' if unit else ''}"] if by else []
    asked += [f"by more than {stds:g} × the pooled seed std"] if stds else []
    what = f"{what} {' and '.join(asked)}".rstrip()
    if high is None or low is None:
        return Check(what, None, f"{show(high, digits)} against {show(low, digits)}")
    gap, spread = high.mean - low.mean, pooled_std(high, low)
    holds = gap > by and gap > stds * (spread or 0.0)
    found = f"{show(high, digits)} against {show(low, digits)}: {gap:+.{digits}f}{f' {unit}' if unit else ''}"
    if stds:
        found += "; one seed has no std" if spread is None else f"; pooled std {spread:.{digits}f}"
    return Check(what, holds, found.replace("-", "−"))


def show(value: Stat | None, digits: int = 1) -> str:
    """Mean ± std, or that there is none."""
    if value is None:
        return "no number"
    return f"{value.mean:.{digits}f}" + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def times(what: str, high: Stat | None, low: Stat | None, factor: float, *, digits: int = 1) -> Check:
    """That `high` is at least `factor` times `low`, as means over seeds.

    Args:
        what: The statement, to which the factor is added.
        high, low: The two arms; without one of them nothing is measured.
        factor: Above 1.
        digits: Of the figures.
    """
    what = f"{what} by a factor of {factor:g} or more"
    found = f"{show(high, digits)} against {show(low, digits)}"
    if high is None or low is None:
        return Check(what, None, found)
    ratio = high.mean / low.mean if low.mean else float("inf")
    return Check(
        what, high.mean >= factor * low.mean and high.mean > 0, f"{found}: × {ratio:.{1 if ratio < 10 else 0}f}"
    )
