"""Which cells of a sweep a claim is judged from: `claims.json` in the sweep's folder.

A sweep may hold the cells of several claims, and a cell may belong to more than one of them. The plan of the sweep
writes the file, the judgment reads it, and neither knows of the other.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normzoo.errors import UserError
from normzoo.results import write_atomic

FILE_NAME = "claims.json"


@dataclass(frozen=True)
class ClaimCells:
    """A claim, in a sentence, and the cells that were run for it.

    `grids` is `full` or `quick`: which of the claim's grids the cells come from.
    """

    name: str
    statement: str
    source: str
    cells: tuple[str, ...]
    grids: str = "full"


def gather(cells: Iterable[tuple[str, Any]]) -> list[ClaimCells]:
    """The claims among planned cells, each given by its id and the `claim` block of its config (None for no claim)."""
    found: dict[str, tuple[Any, dict[str, None]]] = {}
    for cell, claim in cells:
        if claim:
            found.setdefault(claim["name"], (claim, {}))[1][cell] = None
    return [
        ClaimCells(name, claim["statement"], claim["source"], tuple(ids), claim.get("grids", "full"))
        for name, (claim, ids) in found.items()
    ]


def write_claims(folder: str | os.PathLike[str], claims: Iterable[ClaimCells]) -> Path | None:
    """Write `claims` into the folder's `claims.json`; those of another name that stand there stay.

    Raises:
        UserError: the folder cannot be written, or what stands there is corrupt.
    """
    new = {claim.name: claim for claim in claims}
    if not new:
        return None
    merged = {claim.name: claim for claim in read_claims(folder)} | new
    content = {
        name: {key: value for key, value in asdict(claim).items() if key != "name"} for name, claim in merged.items()
    }
    return write_atomic(Path(folder) / FILE_NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_claims(folder: str | os.PathLike[str]) -> list[ClaimCells]:
    """The claims of a sweep's folder, none where it has no `claims.json`.

    Raises:
        UserError: the file is corrupt; the message names it.
    """
    file = Path(folder) / FILE_NAME
    try:
        content = json.loads(file.read_bytes())
        return [
            ClaimCells(name, entry["statement"], entry["source"], tuple(entry["cells"]), entry["grids"])
            for name, entry in content.items()
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is corrupt ({error!r}); remove it and run the claims again.") from error
