"""The claims that tutorials and papers make about normalization, judged and drawn from the records of a sweep.

A claim is a file here with two functions, `judge(cells) -> Finding` and `draw(cells, figure)`. Both take the report's
data frame, a row a cell, of the cells that the sweep's `claims.json` lists for the experiment of the claim's name.
"""

import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from normzoo.claims._cells import frame
from normzoo.claims._checks import Finding
from normzoo.claims._page import Judged, page, terminal
from normzoo.errors import UserError
from normzoo.report.checks import Check
from normzoo.report.records import displayed
from normzoo.results import CellResult, read_result, write_atomic
from normzoo.sweep.claims_manifest import ClaimCells, read_claims
from normzoo.text import printable

__all__ = ["Check", "ClaimsReport", "Finding", "Judged", "judge_claims", "known_claims"]

FIGURES = "claims"
PAGE = "claims.md"


@dataclass(frozen=True)
class ClaimsReport:
    """What `judge_claims` wrote, what it has for a terminal, and how many cells, judgments and figures failed."""

    page: Path
    judged: Sequence[Judged]
    text: str
    failed: int


def known_claims() -> list[str]:
    """Return the names of the claims that can be judged."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def judge_claims(folder: str | os.PathLike[str], *, width: int | None = None) -> ClaimsReport | None:
    """Judge every claim that a sweep has cells for; write `claims.md`, and a figure of each claim into `claims/`.

    The sweep may still be running: whatever records are there are judged. A claim whose judgment or figure fails is
    reported as such beside the others.

    Args:
        folder: Of the sweep.
        width: Characters a line of the text may have; the terminal's width by default.

    Returns:
        None where the sweep's folder lists no claim.

    Raises:
        UserError: The folder's list of claims is corrupt, the folder cannot be written, or matplotlib is missing.
    """
    root = Path(folder)
    claims = sorted(read_claims(root), key=lambda claim: claim.name)
    if not claims:
        return None
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("the figures of claims need matplotlib: pip install 'normzoo[sweep]'") from error
    judged = [_judge(root, claim) for claim in claims]
    written = write_atomic(root / PAGE, page(judged, root))
    failed = sum(one.failed + (one.error is not None) for one in judged)
    return ClaimsReport(written, judged, terminal(judged, written, width), failed)


def _judge(root: Path, claim: ClaimCells) -> Judged:
    records, faults = _records(root, claim)
    one = Judged(claim, records)
    if claim.name not in known_claims():
        return replace(one, error=f"no {claim.name}.py judges it; there are {', '.join(known_claims())}")
    what, cells, files = "its judgment", frame(records), None
    try:
        module = import_module(f"{__name__}.{claim.name}")
        one = replace(one, finding=module.judge(cells))
        what = "its figure"
        if records:
            from normzoo.claims._figure import drawn

            files = drawn(claim.name, cells, module.draw)
    except Exception as error:  # also a UserError, of a recording that is corrupt
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
        faults.append(f"{what} failed: {type(error).__name__}: {error}")
    if files:
        png, svg = files
        write_atomic(root / FIGURES / f"{claim.name}.svg", svg)
        one = replace(one, figure=write_atomic(root / FIGURES / f"{claim.name}.png", png))
    return replace(one, error="; ".join(faults) or None)


def _records(root: Path, claim: ClaimCells) -> tuple[list[CellResult], list[str]]:
    records, unreadable = [], []
    for cell in claim.cells:
        if (root / cell / "result.json").exists():
            try:
                records.append(displayed(read_result(root / cell)))
            except UserError as error:
                unreadable.append(str(error))
    return records, unreadable
