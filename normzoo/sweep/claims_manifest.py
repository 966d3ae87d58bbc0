"""Which cells of a sweep a claim is judged from: `claims.json` in the sweep's folder.

A sweep may hold the cells of several claims, and a cell may belong to more than one of them. The plan of the sweep
writes the file, the judgment reads it, and neither knows of the other.
"""

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
    """A claim, in a sentence, and the cells that were run for it.

    `grids` is `full` or `quick`: which of the claim's grids the cells come from. `command` is what ran them.
    """

    name: str
    statement: str
    source: str
    cells: tuple[str, ...]
    grids: str = "full"
    command: str = ""


def gather(cells: Iterable[tuple[str, Any]], command: str = "") -> list[ClaimCells]:
    """The claims among planned cells, each given by its id and the `claim` block of its config (None for no claim)."""
    found: dict[str, tuple[Any, dict[str, None]]] = {}
    for cell, claim in cells:
        if claim:
            found.setdefault(claim["name"], (claim, {}))[1][cell] = None
    return [
        ClaimCells(name, claim["statement"], claim["source"], tuple(ids), claim.get("grids", "full"), command)
        for name, (claim, ids) in found.items()
    ]


def write_claims(folder: str | os.PathLike[str], claims: Iterable[ClaimCells]) -> Path | None:
    """Write `claims` into the folder's `claims.json`; those of another name that stand there stay.

    So do those that another sweep writes into the folder at the same time.

    Raises:
        UserError: the folder cannot be written, or what stands there is corrupt.
    """
    new = {claim.name: claim for claim in claims}
    if not new:
        return None
    with _locked(Path(folder)):
        merged = {claim.name: claim for claim in read_claims(folder)} | new
        content = {
            name: {key: value for key, value in asdict(claim).items() if key != "name"}
            for name, claim in merged.items()
        }
        return write_atomic(Path(folder) / FILE_NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_claims(folder: str | os.PathLike[str]) -> list[ClaimCells]:
    """The claims of a sweep's folder, none where it has no `claims.json`.

    Raises:
        UserError: the file is corrupt; the message names it.
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
    try:
        words = shlex.split(command)
    except ValueError:  # cut short, it cannot be typed again
        words = []
    # It is shown to be typed again, and so it is a command of ours, quoted, and no other.
    ours = words[:1] == ["normzoo"] and words[1:2] in (["claims"], ["train"])
    return ClaimCells(name, entry["statement"], entry["source"], cells, entry["grids"], shlex.join(words) * ours)


def of_claims_alone(folder: str | os.PathLike[str]) -> bool:
    """Whether the sweep ran the cells of claims and nothing else, so that to compare all of them says little.

    Raises:
        UserError: the list of claims is corrupt.
    """
    if not Path(folder).is_dir():
        return False
    claims = read_claims(folder)
    if not any(claim.command.startswith("normzoo claims") for claim in claims):
        return False
    theirs = {cell for claim in claims for cell in claim.cells}
    return theirs.issuperset(record.parent.name for record in Path(folder).glob(f"*/{RECORD}"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else is in here for this folder; the lock's file stays, as others may be waiting for it."""
    import fcntl  # of Unix alone, where sweeps run; the report reads their lists anywhere

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise cannot_write(folder, error, "hydra.sweep.dir") from error
    try:
        with suppress(OSError):  # a file system without locks: two sweeps into one folder are the user's to keep apart
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):  # a process forked meanwhile has the file open too, and closing alone would not unlock
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
