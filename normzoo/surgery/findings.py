"""What is wrong with the norms of a model: one row for each fault, with its fix."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from normzoo.surgery.report import Rows, aligned

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
WIDEST = 40  # characters of a column of text


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault, its reason, and its fix."""

    check: str
    """The name of the check, such as `one_value`."""
    severity: Severity
    """`error`: it fails, or gives a wrong result; `warning`: it costs accuracy; `note`: worth knowing."""
    layers: tuple[str, ...]
    """The qualified names of the layers that have it; empty for the model itself."""
    reason: str
    fix: str
    function: str
    """The function that does the fix."""

    @property
    def layer(self) -> str:
        """The layers on a line: the first two by name."""
        named = [name or "(model)" for name in self.layers[:2]] or ["(model)"]
        more = len(self.layers) - 2
        return ", ".join(named) + (f" and {more} more" if more > 0 else "")


class Findings(Rows[Finding]):
    """Findings, the most severe first. They print as a table; `as_dicts` is for data frames."""

    def __init__(self, found: Iterable[Finding]) -> None:
        layers: dict[Finding, list[str]] = {}
        for finding in found:
            layers.setdefault(dataclasses.replace(finding, layers=()), []).extend(finding.layers)
        merged = [dataclasses.replace(one, layers=tuple(dict.fromkeys(names))) for one, names in layers.items()]
        super().__init__(sorted(merged, key=lambda finding: SEVERITIES.index(finding.severity)))

    def at_least(self, severity: Severity) -> list[Finding]:
        """Return the findings that are as severe, or more."""
        return [one for one in self if SEVERITIES.index(one.severity) <= SEVERITIES.index(severity)]

    def __str__(self) -> str:
        if not self.rows:
            return "no findings"
        cells = [(one.severity, one.layer, one.reason, one.fix, one.function) for one in self]
        counts = [(sum(one.severity == severity for one in self), severity) for severity in SEVERITIES]
        summary = ", ".join(f"{n} {severity}{'s' * (n != 1)}" for n, severity in counts if n)
        return "\n".join([*aligned(("severity", "layer", "reason", "fix", "function"), cells, WIDEST), summary])
