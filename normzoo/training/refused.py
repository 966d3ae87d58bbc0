"""What is said and recorded of the cells of a sweep that cannot be."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from normzoo.errors import UserError
from normzoo.results import FINISHED, CellResult, write_result
from normzoo.sweep.wrapped import wrapped
from normzoo.training.cell import describe

if TYPE_CHECKING:
    from normzoo.training.plan import Cell

log = logging.getLogger("normzoo")


def say_refused(cells: "Sequence[Cell]") -> None:
    """Print each reason to refuse cells once."""
    for reason, labels in _reasons(cells).items():
        others = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        log.info("%s", wrapped(f"refused: {labels[0]}{others}: {reason}"))


def check_any(asked: "Sequence[Cell | None]") -> None:
    """See that there are cells that can be.

    Args:
        asked: None for what composes to none, of which has been said why.

    Raises:
        UserError: If all of them are refused.
    """
    if not asked or any(cell is not None and not cell.refused for cell in asked):
        return
    cells = [cell for cell in asked if cell is not None]
    reasons = _reasons(cells)
    if len(reasons) > 1:
        say_refused(cells)
    count = "the cell cannot be" if len(asked) == 1 else f"none of the {len(asked)} cells can be"
    raise UserError(f"{count}{f': {next(iter(reasons))}' if len(reasons) == 1 else ', as said above'}")


def record_refused(cells: "Sequence[Cell]") -> None:
    """Leave a record of each refused cell, unless one is there that says as much."""
    with ThreadPoolExecutor(8) as pool:  # each record waits for the disk, and they may wait together
        list(pool.map(_record, [cell for cell in cells if cell.refused and not _is_recorded(cell)]))


def _is_recorded(cell: "Cell") -> bool:
    return cell.record is not None and (cell.record.status in FINISHED or cell.record.reason == cell.refused)


def _record(cell: "Cell") -> None:
    write_result(cell.folder, CellResult(**describe(cell.config), status="refused", reason=cell.refused))


def _reasons(cells: "Sequence[Cell]") -> dict[str, list[str]]:
    """The cells, by name, that are refused for each reason."""
    labels: dict[str, list[str]] = {}
    for cell in cells:
        if cell.refused:
            labels.setdefault(cell.refused, []).append(cell.label)
    return labels
