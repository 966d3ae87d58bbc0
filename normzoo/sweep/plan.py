"""A sweep's cells, composed and checked before anything trains."""

import contextlib
import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import filter_overrides
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from normzoo.errors import UserError
from normzoo.results import (
    FILE_NAME,
    FINISHED,
    NO_RECORD,
    CellResult,
    NewerSchemaError,
    read_result,
    stamp,
    write_atomic,
)
from normzoo.resume_command import anew, command_of
from normzoo.sweep.cell_lock import FILE_NAME as CLAIM
from normzoo.sweep.cell_lock import Claim
from normzoo.sweep.claims_manifest import gather, write_claims
from normzoo.sweep.compose import Composer, Composition
from normzoo.sweep.hydra_errors import user_error
from normzoo.sweep.hydra_task import check_hydra
from normzoo.sweep.precheck import Verdicts
from normzoo.sweep.rejected import check_any, record_refused, say_refused
from normzoo.text import counted, wrapped
from normzoo.training.callbacks import tidy
from normzoo.training.cell import write_probe
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.config import CellConfig, SweepOptions, sweep_options
from normzoo.training.distributed import under_torchrun

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import CellLauncher

log = logging.getLogger("normzoo")

BATCHES_TO_START = 300  # what starting a cell costs, in batches; only the time left is told from it


class State(StrEnum):
    """What a sweep does with a cell."""

    TO_RUN = "to run"
    CONTINUES = "continues from its checkpoint"
    DONE = "done"
    FAILED_BEFORE = "failed before"
    REFUSED = "refused"


@dataclass
class Cell:
    """One cell of a sweep, planned."""

    composition: Composition
    config: CellConfig
    folder: Path
    overrides: tuple[str, ...] = ()
    label: str = ""
    num_train: int = 0
    refused: str | None = None
    state: State = State.TO_RUN
    record: CellResult | None = None  # as it was when the cell was planned
    lost: bool = False  # whether no record of it could be written
    stamp: str = ""  # what tells that record from the next; found when the cell is planned, here or elsewhere

    def __post_init__(self) -> None:
        self.stamp = self.stamp or stamp(self.folder)

    @property
    def hydra_config(self) -> DictConfig:
        """The whole configuration, Hydra's node included, as the cell's process is given it."""
        return self.composition.config()

    @property
    def cost(self) -> float:
        """Roughly, in batches."""
        trainer, batches = self.config.trainer, self.num_train / self.config.batch_over_devices
        epochs, steps = trainer.max_epochs, trainer.max_steps
        ends = [epochs * batches] if epochs is not None and epochs >= 0 else []
        ends += [steps * trainer.accumulate_grad_batches] if steps >= 0 else []
        return min(ends, default=batches) + BATCHES_TO_START

    @property
    def runs(self) -> bool:
        """Whether this sweep runs it."""
        return self.state in (State.TO_RUN, State.CONTINUES)

    def result(self, *, new: bool = False) -> CellResult | None:
        """The record, where there is one that can be read.

        Args:
            new: Leave out a record that was there already when the cell was planned.
        """
        if new and stamp(self.folder) == self.stamp:
            return None
        with contextlib.suppress(UserError):
            return read_result(self.folder)
        return None


@dataclass(frozen=True)
class Plan:
    """What a sweep is going to do.

    Args:
        cells: Each one once.
        asked: For each list of overrides its cell; several may have the same. None where the overrides compose to none.
        options: Of the sweep.
    """

    cells: list[Cell]
    asked: list[Cell | None]
    options: SweepOptions

    @property
    def to_run(self) -> list[Cell]:
        """The cells to run."""
        return [cell for cell in self.cells if cell.runs]

    def line(self, n_jobs: int, folder: str) -> str:
        """What is done with how many cells, in one line."""
        count = {state: sum(cell.state is state for cell in self.cells) for state in State}
        continued = f" ({count[State.CONTINUES]} from a checkpoint)" if count[State.CONTINUES] else ""
        failed, unread = count[State.FAILED_BEFORE], self.asked.count(None)
        return (
            f"{counted(len(self.cells) + unread)}: {len(self.to_run)} to run{continued}, {n_jobs} at a time; "
            f"{count[State.DONE]} done before, "
            + (f"{failed} failed before (sweep.retry=failed runs them again), " if failed else "")
            + f"{count[State.REFUSED] + unread} refused; results in {folder}"
        )


def plan(launcher: "CellLauncher", job_overrides: Sequence[Sequence[str]], first: int) -> Plan:
    """Compose every cell and refuse those that cannot be, by name, before anything trains.

    Args:
        launcher: Set up by Hydra.
        job_overrides: Of each cell.
        first: The number of the first of them.

    Nothing is written before all are planned, so that a slip of the hand leaves no folder.

    Raises:
        UserError: If an option of the sweep is wrong, something is misspelt, the folder cannot be written, or no cell
            is left. A search, which tries what it does not know, is told by infinite errors instead.
    """
    if under_torchrun():
        raise UserError(
            "torchrun starts one cell, and each of its processes would run this sweep: run the sweep without torchrun, "
            "where cells with trainer.devices above 1 start their own processes"
        )
    check_hydra(launcher.config)
    folder = Path(launcher.config.hydra.sweep.dir).absolute()
    block: Any = OmegaConf.to_container(launcher.config.get("sweep") or OmegaConf.create(), resolve=True)
    options = sweep_options(block)
    search = searches(launcher.config)
    if search and options.dry_run:
        raise UserError("sweep.dry_run=true plans a grid; a search only finds its cells as it goes")
    composer = Composer(launcher.hydra_context.config_loader, launcher.config, str(folder))
    verdicts = Verdicts(devices_here=launcher.devices_here)
    constant = set.intersection(*(set(overrides) for overrides in job_overrides)) if len(job_overrides) > 1 else set()
    cells: dict[str, Cell] = {}
    asked: list[Cell | None] = []
    uncomposed: dict[str, list[str]] = {}
    claimed: list[tuple[str, Any]] = []
    for number, overrides in enumerate(job_overrides, start=first):
        try:
            config, composition = composer.compose(overrides)
        except (HydraException, UserError) as error:
            if isinstance(error, HydraException) and not search:
                raise user_error(error, [*launcher.config.hydra.overrides.hydra, *overrides]) or error from error
            uncomposed.setdefault(str(error).splitlines()[0], []).append(_label(overrides, constant))
            asked.append(None)
            continue
        identity = config.identity
        claimed.append((identity, config.plain.get("claim")))
        if identity not in cells:
            own = {"job.id": str(number), "job.num": number, "sweep.dir": str(folder), "sweep.subdir": identity}
            composition = replace(composition, own={f"hydra.{key}": value for key, value in own.items()})
            cell = cells[identity] = Cell(composition, config, folder / identity, tuple(overrides))
            cell.label = _label(overrides, constant) or identity
            _decide(cell, verdicts, options)
        asked.append(cells[identity])
    planned = Plan(list(cells.values()), asked, options)
    if not search:
        check_any(asked, uncomposed)
    say_refused(planned.cells, uncomposed)
    if not options.dry_run:
        write_probe(folder)
        if not search:  # Hydra's own sweepers leave it as well
            write_atomic(folder / "multirun.yaml", OmegaConf.to_yaml(launcher.config))
        write_claims(folder, gather(claimed, anew(command_of(launcher.config))))
        record_refused(planned.cells)
    return planned


def _label(overrides: Sequence[str], constant: Container[str]) -> str:
    """What a cell is called: where it differs from the others."""
    return " ".join(override for override in filter_overrides(overrides) if override not in constant)


def searches(config: DictConfig) -> bool:
    """Whether the sweep's cells follow from results, as Optuna's do, and not from a grid."""
    return str(config.hydra.sweeper._target_).rpartition(".")[2] not in ("NormzooSweeper", "BasicSweeper")


def _decide(cell: Cell, verdicts: Verdicts, options: SweepOptions) -> None:
    """What is done with the cell: first by the record it has, and by a check only if it is to run."""
    try:
        cell.record = read_result(cell.folder) if cell.stamp != NO_RECORD else None
        if cell.record is not None and cell.record.cell != cell.folder.name:
            raise UserError(f"{cell.folder / FILE_NAME} is the record of another cell, {cell.record.cell}")
    except NewerSchemaError as error:
        refuse(cell, str(error))
        return
    except UserError as error:
        log.info("%s", wrapped(f"run again: {cell.label}: {error}"))
        cell.record = None
    status = cell.record.status if cell.record is not None and options.resume else None
    if status in FINISHED and not (status == "diverged" and options.retry == "all"):
        cell.state = State.DONE
        if not options.dry_run and (cell.folder / CLAIM).exists():
            _tidy(cell.folder)
        return
    if status not in (None, "refused", *FINISHED) and options.retry == "none":
        cell.state = State.FAILED_BEFORE
        return
    refused, cell.num_train = verdicts.of(cell.config)
    if refused is not None:
        refuse(cell, refused)
    elif options.resume and (cell.folder / CHECKPOINT).exists():
        cell.state = State.CONTINUES


def refuse(cell: Cell, reason: str) -> None:
    """Take a cell that cannot be out of those to run."""
    cell.refused, cell.state = reason, State.REFUSED


def _tidy(folder: Path) -> None:
    """Clear what a sweep that was killed has left of a finished cell, unless another one is about to."""
    with contextlib.suppress(UserError):
        claim = Claim.take(folder)
        if claim is not None:
            tidy(folder)
            claim.give_back()
