"""What a claim came to: its checks, and the verdict they add up to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from normzoo.report.chance import none_learned
from normzoo.results import CellResult

HOLDS, IN_PART, FAILS, UNMEASURED = "holds", "holds in part", "does not hold here", "not measured"
SO_FAR, UNTOLD = "holds as far as measured", "cannot be told"


@dataclass(frozen=True)
class Check:
    """One thing that can be true or false, with its threshold in words, and what was found.

    Args:
        text: What is asked, threshold included: "batch_norm: error at batch 2 exceeds that at 32 by 10 points or more".
        holds: Whether it is so; None where cells for it are missing or failed, or it cannot be told for another reason.
            That cells diverged is a result.
        measured: The figures it rests on.
        narrow: Whether it is decided by less than one standard deviation over seeds: other seeds could turn it.
    """

    text: str
    holds: bool | None
    measured: str
    narrow: bool = False
    untold: bool = False

    def on(self, cells: Iterable[CellResult], edge: str = "") -> "Check":
        """Judge it on these cells: it cannot be told of nets that only guess, nor of a best that may not be the best.

        Args:
            cells: All that are compared. What asks of one arm alone whether it trains has others to be compared with.
            edge: What `at_edge` says of the arms.
        """
        why = none_learned(cells) or edge
        if not why or self.holds is None:
            return self
        return replace(self, holds=None, measured=f"{why}; {self.measured}", untold=True)


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim, mean ± std over seeds with their number, and the checks that judge it."""

    measured: str
    checks: Sequence[Check]

    @property
    def verdict(self) -> str:
        """Of the checks that can be told: all hold, some, none; else `cannot be told`, or `not measured` without cells.

        Where all of them hold and there are others, it holds as far as measured.
        """
        judged = [check.holds for check in self.checks if check.holds is not None]
        if not judged:
            return UNTOLD if any(check.untold for check in self.checks) else UNMEASURED
        if all(judged):
            return SO_FAR if len(judged) < len(self.checks) else HOLDS
        return IN_PART if any(judged) else FAILS

    @property
    def narrow(self) -> int:
        """Checks that other seeds could turn."""
        return sum(check.narrow and check.holds is not None for check in self.checks)

    @property
    def unmeasured(self) -> int:
        """Checks without the cells they need."""
        return sum(check.holds is None and not check.untold for check in self.checks)
