"""Tell at which values of a setting every seed trains."""

import pandas as pd

from normzoo.claims._cells import ran, split, values
from normzoo.claims._draw import RUNNING

TRAINS = 50.0  # percent: a net with a lower error has learned something; guessing among ten classes has 90


def along(cells: pd.DataFrame, key: str) -> dict[float, pd.DataFrame]:
    """Group the cells that finished or diverged by the setting, in its order."""
    return dict(sorted(split(ran(cells), key).items()))


def common(one: pd.DataFrame, other: pd.DataFrame, key: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Select the settings and seeds that ran in both arms; None where one lacks a setting of the other.

    A cell that failed would else count as one that does not train.
    """
    arms = [ran(one), ran(other)]
    if key not in one:
        return None
    pairs = [set(zip(arm[key], arm.seed, strict=True)) for arm in arms]
    both = pairs[0] & pairs[1]
    if {value for value, _ in both} != {value for own in pairs for value, _ in own}:
        return None
    one, other = (arm.loc[[pair in both for pair in zip(arm[key], arm.seed, strict=True)]] for arm in arms)
    return one, other


def trains(cells: pd.DataFrame) -> bool:
    """Return whether every seed came below the limit; a diverged one did not."""
    return bool((values(cells, RUNNING) < TRAINS).all())


def trained(cells: pd.DataFrame, key: str) -> list[float] | None:
    """Return the settings at which every seed trains; None where there are no cells."""
    settings = along(cells, key)
    return [value for value, own in settings.items() if trains(own)] if settings else None
