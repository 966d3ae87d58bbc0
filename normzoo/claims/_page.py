"""claims.md, and the same in a few lines for a terminal."""

import shlex
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from normzoo.claims._finding import UNTOLD, Check
from normzoo.report import provenance as describe
from normzoo.report.table import build_table
from normzoo.report.text import markdown_table
from normzoo.results import CellResult
from normzoo.text import bounded, code, markdown, printable

if TYPE_CHECKING:
    from normzoo.claims import Judged

_MARK = {True: "yes", False: "no", None: "not measured"}
_LEAD = """Every verdict is computed from the records of the cells in this folder: a claim **holds** where all its
checks hold, **in part** where some do, **does not hold here** where none does; **as far as measured** where all do that
have cells. What is compared of nets that only guess, or at a best learning rate that stands at the edge of those tried,
**cannot be told**. The checks stand below with their thresholds, claim by claim. Figures are mean ± sample standard
deviation over n seeds: from few seeds of small nets they say how it came out here, and prove nothing elsewhere. A check
is narrow where less than one pooled standard deviation lies between what was found and its threshold: other seeds could
turn it.
"""


def page(judged: Sequence["Judged"], root: Path) -> str:
    """What was run, a row a claim, then a section each with its checks and its figure."""
    head = ["Claim", "Source", "Measured", "Verdict", "Figure"]
    rows = [
        [
            f"[{markdown(one.claim.name)}](#{quote(one.claim.name)}): {markdown(one.claim.statement)}",
            markdown(one.claim.source),
            markdown(one.finding.measured) if one.finding else "–",
            f"**{one.verdict}**{_incomplete(one)}{_narrow(one)}",
            f"[png]({_relative(one.figure, root)})" if one.figure else "–",
        ]
        for one in judged
    ]
    parts = ["# Claims about normalization\n", _LEAD, _run(judged), markdown_table(head, rows).replace("---:", "---")]
    return "\n".join([*parts, *(_section(one, root) for one in judged)])


def _section(one: "Judged", root: Path) -> str:
    parts = [
        f"## {markdown(one.claim.name)}\n",
        f"{markdown(one.claim.statement)} ({markdown(one.claim.source)})\n",
        f"**{one.verdict[0].upper()}{one.verdict[1:]}**{_incomplete(one)}{_narrow(one)}. "
        f"Again by {code(_command(one))}\n",
    ]
    if one.error:
        parts.append(f"Failed: {markdown(bounded(one.error))}\n")
    if one.finding:
        body = [[markdown(check.text), _mark(check), markdown(check.measured)] for check in one.finding.checks]
        parts.append(markdown_table(["Check", "Holds", "Measured"], body).replace("---:", "---"))
    missing = len(one.claim.cells) - len(one.records)
    if missing:
        parts.append(f"{describe.number(missing, 'cell')} of {len(one.claim.cells)} without a record.\n")
    if one.records:
        table = build_table(one.records)
        parts.append(f"{describe.counts(table)}; {describe.seeds(table.rows)}; {describe.time(table.rows)}.\n")
    if one.figure:
        parts.append(f"![{markdown(f'{one.claim.name}: {one.claim.statement}')}]({_relative(one.figure, root)})\n")
    return "\n".join(parts)


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


def _run(judged: Sequence["Judged"]) -> str:
    records: dict[str, CellResult] = {record.cell: record for one in judged for record in one.records}
    if not records:
        return "No cell has a record yet.\n"
    table = build_table(records.values())
    grids = " and ".join(sorted({one.claim.grids for one in judged}))
    verdicts = Counter(one.verdict for one in judged)
    entries = [
        ("Claims", ", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items()))),
        ("Command", ", ".join(dict.fromkeys(code(one.claim.command) for one in judged if one.claim.command))),
        ("Grids", f"{grids} (`--quick` runs fewer cells than the full grids)"),
        ("Cells", describe.counts(table)),
        ("Seeds", describe.seeds(table.rows)),
        ("Hardware", markdown(describe.hardware(table.rows))),
        ("Versions", markdown(describe.versions(table.rows))),
        ("Time", describe.time(table.rows)),
    ]
    return "\n".join(f"- {name}: {text}" for name, text in entries if text) + "\n"


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
    return f" ({one.finding.narrow} of {describe.number(len(one.finding.checks), 'check')} narrow)"


def _relative(figure: Path, root: Path) -> str:
    return quote(figure.relative_to(root).as_posix())
