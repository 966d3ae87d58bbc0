"""What a claim came to: its checks, and the verdict they add up to."""

from collections.abc import Sequence
from dataclasses import dataclass

HOLDS, IN_PART, FAILS, UNMEASURED = "holds", "holds in part", "does not hold here", "not measured"
SO_FAR = "holds as far as measured"


@dataclass(frozen=True)
class Check:
    """One thing that can be true or false, with its threshold in words, and what was found.

    Args:
        text: What is asked, threshold included: "batch_norm: error at batch 2 exceeds that at 32 by 10 points or more".
        holds: Whether it is so; None where cells for it are missing or failed. That cells diverged is a result.
        measured: The figures it rests on.
        narrow: Whether it is decided by less than one standard deviation over seeds: other seeds could turn it.
    """

    text: str
    holds: bool | None
    measured: str
    narrow: bool = False


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim, mean ± std over seeds with their number, and the checks that judge it."""

    measured: str
    checks: Sequence[Check]

    @property
    def verdict(self) -> str:
        """Of the checks that have cells: all hold, some, none; `not measured` where none has.

        Where all of them hold and others have no cells, it holds as far as measured.
        """
        judged = [check.holds for check in self.checks if check.holds is not None]
        if not judged:
            return UNMEASURED
        if all(judged):
            return SO_FAR if self.unmeasured else HOLDS
        return IN_PART if any(judged) else FAILS

    @property
    def narrow(self) -> int:
        """Checks that other seeds could turn."""
        return sum(check.narrow and check.holds is not None for check in self.checks)

    @property
    def unmeasured(self) -> int:
        """Checks without the cells they need."""
        return sum(check.holds is None for check in self.checks)
