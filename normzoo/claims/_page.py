"""claims.md, whose words are in `claims.md.j2`, and the same in a few lines for a terminal."""

import shlex
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from normzoo.claims._finding import UNTOLD, Check
from normzoo.report import provenance as describe
from normzoo.report.frame import build_table
from normzoo.report.render import code, render, words
from normzoo.results import CellResult
from normzoo.text import bounded, counted, printable

if TYPE_CHECKING:
    from normzoo.claims import Judged

_MARK = {True: "yes", False: "no", None: "not measured"}


def page(judged: Sequence["Judged"], root: Path) -> str:
    """What was run, a row a claim, then a section each with its checks and its figure."""
    return render("claims/claims.md.j2", facts=_run(judged), claims=[_section(one, root) for one in judged])


def _section(one: "Judged", root: Path) -> dict[str, Any]:
    missing = len(one.claim.cells) - len(one.records)
    table = build_table(one.records)
    return {
        "name": one.claim.name,
        "anchor": Markup(quote(one.claim.name)),
        "statement": one.claim.statement,
        "source": one.claim.source,
        "finding": one.finding,
        "checks": [(check.text, _mark(check), check.measured) for check in one.finding.checks] if one.finding else [],
        "verdict": one.verdict,
        "notes": f"{_incomplete(one)}{_narrow(one)}",
        "figure": Markup(quote(one.figure.relative_to(root).as_posix())) if one.figure else "",
        "command": _command(one),
        "error": one.error and bounded(one.error),
        "missing": missing and f"{counted(missing, 'cell')} of {len(one.claim.cells)} without a record.",
        "run": f"{describe.counts(table)}; {describe.seeds(table.cells)}; {describe.time(table.cells)}.",
        "records": one.records,
    }


def _command(one: "Judged") -> str:
    """What runs this claim alone."""
    quick = ["--quick"] if one.claim.grids == "quick" else []
    words = shlex.split(one.claim.command) or ["normzoo", "claims", *quick]
    if words[1] == "claims":
        if "--only" in words:
            at = words.index("--only")
            del words[at : at + 2]
        words[2:2] = ["--only", one.claim.name]
    return shlex.join(words)


def _run(judged: Sequence["Judged"]) -> list[tuple[str, str]]:
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
        ("Cells", describe.counts(table)),
        ("Seeds", describe.seeds(table.cells)),
        ("Hardware", describe.hardware(table.cells)),
        ("Versions", describe.versions(table.cells)),
        ("Time", describe.time(table.cells)),
    ]
    return [entry for entry in entries if entry[1]]


def terminal(judged: Sequence["Judged"], page: Path, width: int | None) -> str:
    """A paragraph a claim: verdict, figures, and the checks that do not hold."""
    width = max(width or shutil.get_terminal_size().columns, 40)
    lines = []
    for one in judged:
        measured = one.finding.measured if one.finding else ""
        text = f"{one.verdict}{_incomplete(one)}: {one.claim.name}: {one.claim.statement} [{measured}]"
        lines.append(textwrap.fill(text, width, subsequent_indent="  "))
        for check in one.finding.checks if one.finding else ():
            if check.holds is False or check.untold:
                no = f"{_mark(check)}: {check.text} [{check.measured}]"
                lines.append(textwrap.fill(no, width, initial_indent="  ", subsequent_indent="    "))
        if one.error:
            lines.append(textwrap.fill(f"failed: {one.error}", width, initial_indent="  ", subsequent_indent="    "))
    return printable("\n".join([*lines, "", str(page)]))


def _incomplete(one: "Judged") -> str:
    checks = one.finding.checks if one.finding else ()
    told = sum(check.holds is not None for check in checks)
    return f" ({told} of {len(checks)} checks told)" if 0 < told < len(checks) else ""


def _mark(check: Check) -> str:
    if check.untold:
        return UNTOLD
    return _MARK[check.holds] + (", narrowly" if check.narrow and check.holds is not None else "")


def _narrow(one: "Judged") -> str:
    if one.finding is None or not one.finding.narrow:
        return ""
    return f" ({one.finding.narrow} of {counted(len(one.finding.checks), 'check')} narrow)"
