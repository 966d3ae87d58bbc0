"""What a claim came to: its checks, and the verdict they add up to."""

from collections.abc import Sequence
from dataclasses import dataclass

from normzoo.report.checks import Check as Check

HOLDS, IN_PART, FAILS, UNMEASURED = "holds", "holds in part", "does not hold here", "not measured"
SO_FAR, UNTOLD = "holds as far as measured", "cannot be told"


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
