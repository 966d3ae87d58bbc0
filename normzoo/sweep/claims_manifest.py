"""List in `claims.json`, in the sweep's folder, which cells each claim is judged from.

A sweep may hold the cells of several claims, and a cell may belong to more than one. The plan of the sweep writes the
file and the judgment reads it; neither knows of the other.
"""

import contextlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normzoo.errors import UserError, cannot_write
from normzoo.results import FILE_NAME as RECORD
from normzoo.results import write_atomic
from normzoo.text import bounded, displayable

FILE_NAME = "claims.json"
_LOCK = ".claims.lock"


@dataclass(frozen=True)
class ClaimCells:
    """A claim, and the cells that were run for it.

    Args:
        name: Of the claim.
        statement: Of the claim, in a sentence.
        source: Who claims it.
        cells: Their ids.
        grids: `full` or `quick`: which of the claim's grids the cells come from.
        command: What ran them.
    """

    name: str
    statement: str
    source: str
    cells: tuple[str, ...]
    grids: str = "full"
    command: str = ""


def gather(cells: Iterable[tuple[str, Any]], command: str = "") -> list[ClaimCells]:
    """Gather the claims of planned cells.

    Args:
        cells: The id of each cell, and the `claim` block of its config (None without a claim).
        command: What runs them.
    """
    found: dict[str, tuple[Any, dict[str, None]]] = {}
    for cell, claim in cells:
        if claim:
            found.setdefault(claim["name"], (claim, {}))[1][cell] = None
    return [
        ClaimCells(name, claim["statement"], claim["source"], tuple(ids), claim.get("grids", "full"), command)
        for name, (claim, ids) in found.items()
    ]


def write_claims(folder: str | os.PathLike[str], claims: Iterable[ClaimCells]) -> Path | None:
    """Write `claims` into the folder's `claims.json`, and keep those of other names, even of another sweep just now.

    Raises:
        UserError: If the folder cannot be written, or the file is corrupt.
    """
    new = list(claims)
    if not new:
        return None
    with _locked(Path(folder)):
        merged = {claim.name: asdict(claim) for claim in read_claims(folder)}
        merged |= {claim.name: asdict(claim) for claim in new}
        content = {name: {key: entry[key] for key in entry if key != "name"} for name, entry in merged.items()}
        return write_atomic(Path(folder) / FILE_NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_claims(folder: str | os.PathLike[str]) -> list[ClaimCells]:
    """Read the claims in a sweep's folder; none if it has no `claims.json`.

    Raises:
        UserError: If the file is corrupt; the message names it.
    """
    file = Path(folder) / FILE_NAME
    try:
        content = displayable(json.loads(file.read_bytes()))
        return [_claim_cells(name, entry) for name, entry in content.items()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = bounded(repr(error), 300)
        raise UserError(f"{file} is corrupt ({said}); remove it and run the claims again.") from error


def _claim_cells(name: str, entry: Mapping[str, Any]) -> ClaimCells:
    cells, command = tuple(entry["cells"]), entry.get("command", "")
    texts = (entry["statement"], entry["source"], entry["grids"], command, *cells)
    if not all(isinstance(text, str) for text in texts) or any(Path(cell).name != cell for cell in cells):
        raise ValueError(f"the entry {name}")
    words: list[str] = []
    with contextlib.suppress(ValueError):  # cut short, it cannot be typed again
        words = shlex.split(command)
    # It is shown to be typed again: only a command of ours, quoted, is safe.
    ours = words[:1] == ["normzoo"] and words[1:2] in (["claims"], ["train"])
    return ClaimCells(name, entry["statement"], entry["source"], cells, entry["grids"], shlex.join(words) * ours)


def of_claims_alone(folder: str | os.PathLike[str]) -> bool:
    """Whether the sweep ran the cells of claims and nothing else, so that comparing all of them says little.

    Raises:
        UserError: If the list of claims is corrupt.
    """
    claims = read_claims(folder) if Path(folder).is_dir() else []
    if not any(claim.command.startswith("normzoo claims") for claim in claims):
        return False
    theirs = {cell for claim in claims for cell in claim.cells}
    return theirs.issuperset(record.parent.name for record in Path(folder).glob(f"*/{RECORD}"))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other sweeps out; the lock's file stays, as others may be waiting for it."""
    import fcntl  # of Unix alone, where sweeps run; the report reads claims anywhere

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / _LOCK, "a")  # noqa: SIM115 (an error of opening alone is the user's)
    except OSError as error:
        raise cannot_write(folder, error, "hydra.sweep.dir") from error
    with file:
        with contextlib.suppress(OSError):  # a file system without locks: the user keeps two sweeps out of one folder
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # closing is not enough if a process forked meanwhile has it open
                fcntl.flock(file, fcntl.LOCK_UN)
