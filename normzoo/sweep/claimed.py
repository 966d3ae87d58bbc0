"""The right to run a cell, and its folder as it is to find it."""

from pathlib import Path

from normzoo.errors import UserError
from normzoo.results import stamp
from normzoo.sweep.cell_lock import Claim
from normzoo.sweep.outcome import given_up
from normzoo.sweep.plan import Cell
from normzoo.sweep.pool import Elsewhere
from normzoo.training.callbacks import CURVE
from normzoo.training.checkpoint import CHECKPOINT


def claimed(cell: Cell, *, resume: bool) -> Claim | Elsewhere:
    """Take the claim of the cell, or say why it is not to be run.

    Nothing is taken away that counts: an old record stays until the new one is there.

    Args:
        resume: Whether it goes on from the checkpoint in its folder.

    Raises:
        UserError: If what an earlier attempt has left cannot be removed.
    """
    claim = Claim.take(cell.folder)
    if claim is None:
        return Elsewhere.RUNS
    try:
        found = cell.result(new=True)
        done = found is not None and not given_up(found)
        if given_up(found):  # by the sweep that had put it into the queue, and it now begins
            cell.stamp = stamp(cell.folder)
        if not done:
            _clear(cell.folder, resume=resume)
    except BaseException:  # whoever outlives it would hold the others off
        claim.give_back()
        raise
    if done:
        claim.give_back()
        return Elsewhere.DONE
    return claim


def _clear(folder: Path, *, resume: bool) -> None:
    try:
        if not resume:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        if not (folder / CHECKPOINT).exists():
            (folder / CURVE).unlink(missing_ok=True)  # of an earlier attempt
    except OSError as error:
        raise UserError(
            f"cannot remove {error.filename}: {error.strerror}; choose another folder with hydra.sweep.dir"
        ) from error
