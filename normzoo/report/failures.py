"""Cells that came to no end, by cause: how many, which, and where to read on."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normzoo.report.rows import Row, Table
from normzoo.results import STATUSES

_TELLING = ("error.txt", "cell.log")  # files of a cell, the one that says most first


@dataclass(frozen=True)
class Cause:
    """Cells that ended alike: `said` is the reason of the first of them, `read_on` the file that says more, if any."""

    status: str
    said: str
    rows: tuple[Row, ...]
    read_on: Path | None


def causes(table: Table, *statuses: str) -> list[Cause]:
    """The causes with these statuses, or all but `ok`, in the order of the statuses.

    Reasons that differ only in the norm and the numbers they quote, such as a shape, are one reason.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in table.rows:
        if row.status != "ok" and (not statuses or row.status in statuses):
            groups[row.status, re.sub(r"\d+", "·", row.reason.replace(row.norm, "·"))].append(row)
    found = [
        Cause(status, rows[0].reason or "no reason recorded", tuple(rows), _read_on(status, rows))
        for (status, _), rows in groups.items()
    ]
    return sorted(found, key=lambda cause: (STATUSES.index(cause.status), -len(cause.rows)))


def _read_on(status: str, rows: Sequence[Row]) -> Path | None:
    if status == "refused":
        return None  # the reason is all there is
    for row in rows[:20]:
        for name in _TELLING if row.result.folder is not None else ():
            file = Path(row.result.folder or "") / name
            if file.exists():
                return file
    return None


def short(text: str, most: int) -> str:
    """The text; where it is longer, as many whole sentences of it as there is room for, or else words."""
    if len(text) <= most:
        return text
    kept = re.match(rf"(?s)(.{{1,{most - 1}}}[.;:!?])\s", text) or re.match(rf"(?s)(.{{1,{most}}})\s", text)
    return f"{kept[1].rstrip() if kept else text[:most]} …"
