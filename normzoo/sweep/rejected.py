"""What is said and recorded of the cells of a sweep that cannot be."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING

from normzoo.errors import UserError
from normzoo.results import FINISHED, CellResult, NewerSchemaError, write_result
from normzoo.text import wrapped
from normzoo.training.cell import describe

if TYPE_CHECKING:
    from normzoo.sweep.plan import Cell

log = logging.getLogger("normzoo")


def say_refused(cells: "Sequence[Cell]", uncomposed: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
    """Print each reason to refuse cells once.

    Args:
        uncomposed: The names of what is no cell, by the reason.
    """
    for reason, labels in [*uncomposed.items(), *_reasons(cells).items()]:
        others = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        log.info("%s", wrapped(": ".join(filter(None, ("refused", f"{labels[0]}{others}", reason)))))


def check_any(asked: "Sequence[Cell | None]", uncomposed: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
    """See that there are cells that can be.

    Args:
        asked: None for what composes to none.
        uncomposed: The names of those, by the reason.

    Raises:
        UserError: If all of them are refused.
    """
    if not asked or any(cell is not None and not cell.refused for cell in asked):
        return
    cells = [cell for cell in asked if cell is not None]
    reasons = [*uncomposed, *_reasons(cells)]
    if len(reasons) > 1:
        say_refused(cells, uncomposed)
    count = "the cell cannot be" if len(asked) == 1 else f"none of the {len(asked)} cells can be"
    raise UserError(f"{count}{f': {reasons[0]}' if len(reasons) == 1 else ', as said above'}")


def record_refused(cells: "Sequence[Cell]") -> None:
    """Leave a record of each refused cell, unless one is there that says as much."""
    with ThreadPoolExecutor(8) as pool:  # each record waits for the disk, and they may wait together
        list(pool.map(_record, [cell for cell in cells if cell.refused and not _is_recorded(cell)]))


def _is_recorded(cell: "Cell") -> bool:
    return cell.record is not None and (cell.record.status in FINISHED or cell.record.reason == cell.refused)


def _record(cell: "Cell") -> None:
    try:
        write_result(cell.folder, CellResult(**describe(cell.config), status="refused", reason=cell.refused))
    except NewerSchemaError:  # which may be why it is refused
        pass
    except UserError as error:  # no reason for the other cells to be left out
        log.warning("%s", wrapped(f"no record of {cell.label}, which is refused: {error}"))


def _reasons(cells: "Sequence[Cell]") -> dict[str, list[str]]:
    """The cells, by name, that are refused for each reason."""
    labels: dict[str, list[str]] = {}
    for cell in cells:
        if cell.refused:
            labels.setdefault(cell.refused, []).append(cell.label)
    return labels
