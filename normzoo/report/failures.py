"""Group the cells that did not finish by cause: how many, which, and where to read on."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from normzoo.report.frame import Table
from normzoo.results import STATUSES

_TELLING = ("error.txt", "cell.log")  # files of a cell, the most detailed first


@dataclass(frozen=True)
class Cause:
    """Cells that ended alike: `said` is the reason of the first, `read_on` a file with more details, if any."""

    status: str
    said: str
    cells: pd.DataFrame
    read_on: Path | None


def causes(table: Table, *statuses: str) -> list[Cause]:
    """Return the causes of these statuses, or of all but `ok`, in the order of the statuses.

    Reasons that differ only in the norm and the numbers they quote, such as a shape, are one reason.
    """
    lost = table.cells[table.cells.status.isin(statuses) if statuses else table.cells.status != "ok"]
    pairs = zip(lost.reason, lost.norm, strict=True)
    alike = pd.Series(
        [re.sub(r"\d+", "·", reason.replace(norm, "·")) for reason, norm in pairs], lost.index, dtype=object
    )
    found = [
        Cause(status, cells.reason.iloc[0] or "no reason recorded", cells, _read_on(status, cells))
        for (status, _), cells in lost.groupby(["status", alike], sort=False)
    ]
    return sorted(found, key=lambda cause: (STATUSES.index(cause.status), -len(cause.cells)))


def _read_on(status: str, cells: pd.DataFrame) -> Path | None:
    if status == "refused":
        return None  # the reason is all there is
    for record in cells.record[:20]:
        for name in _TELLING if record.folder is not None else ():
            file = Path(record.folder or "") / name
            if file.exists():
                return file
    return None


def short(text: str, most: int) -> str:
    """Shorten a text to as many whole sentences as fit, or else words."""
    if len(text) <= most:
        return text
    kept = re.match(rf"(?s)(.{{1,{most - 1}}}[.;:!?])\s", text) or re.match(rf"(?s)(.{{1,{most}}})\s", text)
    return f"{kept[1].rstrip() if kept else text[:most]} …"
