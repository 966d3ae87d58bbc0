"""claims.md, whose words are in `claims.md.j2`, and the same in a few lines for a terminal."""

import shlex
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from normzoo.claims._checks import UNTOLD, Finding
from normzoo.report import provenance
from normzoo.report.checks import Check
from normzoo.report.frame import build_table
from normzoo.report.render import code, render, words
from normzoo.results import CellResult
from normzoo.sweep.claims_manifest import ClaimCells
from normzoo.text import bounded, counted, printable

_MARK = {True: "yes", False: "no", None: "not measured"}


@dataclass(frozen=True)
class Judged:
    """A claim with its finding, or why there is none."""

    claim: ClaimCells
    records: Sequence[CellResult]
    finding: Finding | None = None
    figure: Path | None = None
    error: str | None = None

    @property
    def verdict(self) -> str:
        """The verdict, `not judged` without a finding."""
        return self.finding.verdict if self.finding else "not judged"

    @property
    def checks(self) -> Sequence[Check]:
        """The checks, none without a finding."""
        return self.finding.checks if self.finding else ()

    @property
    def failed(self) -> int:
        """Cells that failed; a diverged cell is a result, and a refused one was never run."""
        return sum(record.status not in ("ok", "diverged", "refused") for record in self.records)

    @property
    def incomplete(self) -> str:
        """How many checks can be told, where it is not all of them."""
        told = sum(check.holds is not None for check in self.checks)
        return f" ({told} of {len(self.checks)} checks told)" if 0 < told < len(self.checks) else ""


def page(judged: Sequence[Judged], root: Path) -> str:
    """Write what was run, a row a claim, then a section each with its checks and its figure."""
    return render("claims/claims.md.j2", facts=_run(judged), claims=[_section(one, root) for one in judged])


def _section(one: Judged, root: Path) -> dict[str, Any]:
    missing = len(one.claim.cells) - len(one.records)
    table = build_table(one.records)
    narrow = one.finding.narrow if one.finding else 0
    return {
        "name": one.claim.name,
        "anchor": Markup(quote(one.claim.name)),
        "statement": one.claim.statement,
        "source": one.claim.source,
        "finding": one.finding,
        "checks": [(check.text, _mark(check), check.measured) for check in one.checks],
        "verdict": one.verdict,
        "notes": one.incomplete + (f" ({narrow} of {counted(len(one.checks), 'check')} narrow)" if narrow else ""),
        "figure": Markup(quote(one.figure.relative_to(root).as_posix())) if one.figure else "",
        "command": _command(one),
        "error": one.error and bounded(one.error),
        "missing": missing and f"{counted(missing, 'cell')} of {len(one.claim.cells)} without a record.",
        "run": f"{provenance.counts(table)}; {provenance.seeds(table.cells)}; {provenance.time(table.cells)}.",
        "records": one.records,
    }


def _command(one: Judged) -> str:
    """Return what runs this claim alone."""
    quick = ["--quick"] if one.claim.grids == "quick" else []
    words = shlex.split(one.claim.command) or ["normzoo", "claims", *quick]
    if words[1] == "claims":
        if "--only" in words:
            at = words.index("--only")
            del words[at : at + 2]
        words[2:2] = ["--only", one.claim.name]
    return shlex.join(words)


def _run(judged: Sequence[Judged]) -> list[tuple[str, str]]:
    records: dict[str, CellResult] = {record.cell: record for one in judged for record in one.records}
    if not records:
        return []
    table = build_table(records.values())
    grids = " and ".join(sorted({one.claim.grids for one in judged}))
    verdicts = Counter(one.verdict for one in judged)
    commands = dict.fromkeys(code(one.claim.command) for one in judged if one.claim.command)
    entries = [
        ("Claims", ", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items()))),
        ("Command", Markup(", ").join(commands)),
        ("Grids", words(grids) + Markup(" (`--quick` runs fewer cells than the full grids)")),
        ("Cells", provenance.counts(table)),
        ("Seeds", provenance.seeds(table.cells)),
        ("Hardware", provenance.hardware(table.cells)),
        ("Versions", provenance.versions(table.cells)),
        ("Time", provenance.time(table.cells)),
    ]
    return [entry for entry in entries if entry[1]]


def terminal(judged: Sequence[Judged], page: Path, width: int | None) -> str:
    """Write a paragraph a claim: verdict, figures, and the checks that do not hold."""
    width = max(width or shutil.get_terminal_size().columns, 40)
    lines = []
    for one in judged:
        found = one.finding.measured if one.finding else ""
        text = f"{one.verdict}{one.incomplete}: {one.claim.name}: {one.claim.statement} [{found}]"
        lines.append(textwrap.fill(text, width, subsequent_indent="  "))
        notes = [
            f"{_mark(check)}: {check.text} [{check.measured}]"
            for check in one.checks
            if check.holds is False or check.untold
        ]
        notes += [f"failed: {one.error}"] if one.error else []
        lines += [textwrap.fill(note, width, initial_indent="  ", subsequent_indent="    ") for note in notes]
    return printable("\n".join([*lines, "", str(page)]))


def _mark(check: Check) -> str:
    if check.untold:
        return UNTOLD
    return _MARK[check.holds] + (", narrowly" if check.narrow and check.holds is not None else "")
