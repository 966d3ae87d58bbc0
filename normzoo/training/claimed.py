"""The right to run a cell, and its folder as it is to find it."""

from normzoo.sweep.claim import Claim
from normzoo.sweep.pool import Elsewhere
from normzoo.training.callbacks import CURVE
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.plan import Cell


def claimed(cell: Cell, *, resume: bool) -> Claim | Elsewhere:
    """Take the claim of the cell, or say why it is not to be run.

    Nothing is taken away that counts: an old record stays until the new one is there.

    Args:
        resume: Whether it goes on from the checkpoint in its folder.
    """
    claim = Claim.take(cell.folder)
    if claim is None:
        return Elsewhere.RUNS
    if cell.result(new=True) is not None:
        claim.give_back()
        return Elsewhere.DONE
    if not resume:
        (cell.folder / CHECKPOINT).unlink(missing_ok=True)
    if not (cell.folder / CHECKPOINT).exists():
        (cell.folder / CURVE).unlink(missing_ok=True)  # of an earlier attempt
    return claim
