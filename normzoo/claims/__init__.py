"""The claims that tutorials and papers make about normalization, judged and drawn from the records of a sweep.

A claim is a file here with two functions: `judge(records) -> Finding` and `draw(records, figure)`. It is found by being
here, and judges the cells that `claims.json` of the sweep's folder lists for the experiment of the same name.
"""

import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from normzoo.claims import _figure, _page
from normzoo.claims._finding import Check, Finding
from normzoo.errors import UserError
from normzoo.report.records import displayed
from normzoo.results import CellResult, read_result, write_atomic
from normzoo.sweep.claims_manifest import ClaimCells, read_claims
from normzoo.text import printable

__all__ = ["Check", "ClaimsReport", "Finding", "Judged", "judge_claims", "known_claims"]

FIGURES = "claims"
PAGE = "claims.md"


@dataclass(frozen=True)
class Judged:
    """A claim with what came of it: a finding, or why there is none."""

    claim: ClaimCells
    records: Sequence[CellResult]
    finding: Finding | None
    figure: Path | None
    error: str | None = None

    @property
    def verdict(self) -> str:
        return "not judged" if self.finding is None else self.finding.verdict

    @property
    def failed(self) -> int:
        """Cells that came to grief; a diverged cell is a result, and a refused one was never run."""
        return sum(record.status not in ("ok", "diverged", "refused") for record in self.records)


@dataclass(frozen=True)
class ClaimsReport:
    """What `judge_claims` wrote, what it has for a terminal, and how many cells, judgments and figures failed."""

    page: Path
    judged: Sequence[Judged]
    text: str
    failed: int


def known_claims() -> list[str]:
    """The names of the claims that can be judged."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def judge_claims(folder: str | os.PathLike[str], *, width: int | None = None) -> ClaimsReport | None:
    """Judge every claim that a sweep has cells for; write `claims.md`, and a figure of each claim into `claims/`.

    The sweep may still be running: whatever records are there are judged. A claim whose judgment or figure fails is
    reported as such beside the others.

    Args:
        folder: of the sweep.
        width: characters a line of the text may have; the terminal's width by default.

    Returns:
        None where the sweep's folder lists no claim.

    Raises:
        UserError: the folder's list of claims is corrupt, the folder cannot be written, or matplotlib is missing.
    """
    root = Path(folder)
    claims = sorted(read_claims(root), key=lambda claim: claim.name)
    if not claims:
        return None
    judged, errors = [], 0
    for claim in claims:
        records, unreadable = _records(root, claim)
        one = _judge(root, claim, records, unreadable)
        errors += one.error is not None
        judged.append(one)
    page = write_atomic(root / PAGE, _page.page(judged, root))
    return ClaimsReport(page, judged, _page.terminal(judged, page, width), errors + sum(one.failed for one in judged))


def _records(root: Path, claim: ClaimCells) -> tuple[list[CellResult], list[str]]:
    records, unreadable = [], []
    for cell in claim.cells:
        if (root / cell / "result.json").exists():
            try:
                records.append(displayed(read_result(root / cell)))
            except UserError as error:
                unreadable.append(str(error))
    return records, unreadable


def _judge(root: Path, claim: ClaimCells, records: list[CellResult], unreadable: Sequence[str]) -> Judged:
    finding, figure, faults = None, None, list(unreadable)
    if claim.name not in known_claims():
        return Judged(
            claim, records, None, None, f"no {claim.name}.py judges it; there are {', '.join(known_claims())}"
        )
    try:
        module = import_module(f"{__name__}.{claim.name}")
        finding = module.judge(records)
    except Exception as error:
        faults.append(_fault("its judgment", error))
        return Judged(claim, records, None, None, "; ".join(faults))
    try:
        figure = _write_figure(root, claim, records, module.draw)
    except UserError:
        raise
    except Exception as error:
        faults.append(_fault("its figure", error))
    return Judged(claim, records, finding, figure, "; ".join(faults) or None)


def _write_figure(root: Path, claim: ClaimCells, records: list[CellResult], draw: Callable[..., None]) -> Path | None:
    if not records:
        return None
    png, svg = _figure.drawn(claim, records, draw)
    write_atomic(root / FIGURES / f"{claim.name}.svg", svg)
    return write_atomic(root / FIGURES / f"{claim.name}.png", png)


def _fault(what: str, error: Exception) -> str:
    sys.stderr.write(printable("".join(traceback.format_exception(error))))
    return f"{what} failed: {type(error).__name__}: {error}"
