"""Plan a sweep: compose and check all of its cells before anything trains."""

import contextlib
import logging
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
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
    write_atomic,
    write_result,
)
from normzoo.resume_command import anew, command_of
from normzoo.sweep.cell import Cell, State
from normzoo.sweep.cell_lock import FILE_NAME as LOCK
from normzoo.sweep.cell_lock import CellLock
from normzoo.sweep.claims_manifest import gather, write_claims
from normzoo.sweep.compose import Composer
from normzoo.sweep.hydra_errors import user_error
from normzoo.sweep.hydra_task import check_hydra
from normzoo.sweep.precheck import Precheck
from normzoo.text import counted, wrapped
from normzoo.training.callbacks import tidy
from normzoo.training.cell import describe, write_probe
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.config import SweepOptions, sweep_options
from normzoo.training.distributed import under_torchrun
from normzoo.training.saved import MODEL

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import CellLauncher

NO_LABELS: Mapping[str, Sequence[str]] = MappingProxyType({})
log = logging.getLogger("normzoo")


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
        """Say in one line what is done with how many cells."""
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
    """Compose every cell and refuse those that cannot run, by name, before anything trains.

    Nothing is written before all are planned, so that a typing error leaves no folder.

    Args:
        launcher: Set up by Hydra.
        job_overrides: Of each cell.
        first: The number of the first of them.

    Raises:
        UserError: If an option of the sweep is wrong, something is misspelt, the folder cannot be written, or no cell
            can run. A search gets infinite errors for such cells instead.
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
    precheck = Precheck(devices_here=launcher.devices_here)
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
            _decide(cell, precheck, options, search=search)
        asked.append(cells[identity])
    planned = Plan(list(cells.values()), asked, options)
    if not search:
        check_any(asked, uncomposed)
    print_refused(planned.cells, uncomposed)
    if not options.dry_run:
        write_probe(folder)
        if not search:  # Hydra's own sweepers leave it as well
            write_atomic(folder / "multirun.yaml", OmegaConf.to_yaml(launcher.config))
        write_claims(folder, gather(claimed, anew(command_of(launcher.config))))
        record_refused(planned.cells)
    without = sum(cell.state is State.DONE and not (cell.folder / MODEL).exists() for cell in planned.cells)
    if without and options.save != "none":
        log.info("done before without keeping its net: %s; sweep.resume=false trains anew", counted(without))
    launcher.planned(asked)
    return planned


def _label(overrides: Sequence[str], constant: Container[str]) -> str:
    return " ".join(override for override in filter_overrides(overrides) if override not in constant)


def searches(config: DictConfig) -> bool:
    """Whether the sweep's cells follow from results, as Optuna's do, and not from a grid."""
    return str(config.hydra.sweeper._target_).rpartition(".")[2] not in ("NormzooSweeper", "BasicSweeper")


def _decide(cell: Cell, precheck: Precheck, options: SweepOptions, *, search: bool) -> None:
    """Decide what is done with the cell: first by the record it has, and by a check only if it is to run."""
    try:
        cell.record = read_result(cell.folder) if cell.stamp != NO_RECORD else None
        if cell.record is not None and cell.record.cell != cell.folder.name:
            raise UserError(f"{cell.folder / FILE_NAME} is the record of another cell, {cell.record.cell}")
    except NewerSchemaError as error:
        cell.refuse(str(error))
        cell.lost = True
        return
    except UserError as error:
        log.info("%s", wrapped(f"run again: {cell.label}: {error}"))
        cell.record = None
    status = cell.record.status if cell.record is not None and options.resume else None
    finished = (*FINISHED, "pruned") if search else FINISHED
    if status in finished and not (status == "diverged" and options.retry == "all"):
        cell.state = State.DONE
        if not options.dry_run and (cell.folder / LOCK).exists():
            _tidy(cell.folder)
        return
    if status not in (None, "refused", "pruned", *FINISHED) and options.retry == "none":
        cell.state = State.FAILED_BEFORE
        return
    refused, cell.num_train = precheck.of(cell.config)
    if refused is not None:
        cell.refuse(refused)
    elif options.resume and (cell.folder / CHECKPOINT).exists():
        cell.state = State.CONTINUES


def _tidy(folder: Path) -> None:
    """Clear what a sweep that was killed has left of a finished cell, unless another one is about to."""
    with contextlib.suppress(UserError):
        if lock := CellLock.acquire(folder):
            tidy(folder)
            lock.release()


def check_any(asked: Sequence[Cell | None], uncomposed: Mapping[str, Sequence[str]] = NO_LABELS) -> None:
    """Check that some cell can run.

    Args:
        asked: The cells; None for overrides that compose to none.
        uncomposed: What those overrides are called, by the reason.

    Raises:
        UserError: If all of them are refused.
    """
    if not asked or any(cell is not None and not cell.refused for cell in asked):
        return
    cells = [cell for cell in asked if cell is not None]
    reasons = [*uncomposed, *_reasons(cells)]
    if len(reasons) > 1:
        print_refused(cells, uncomposed)
    count = "the cell cannot run" if len(asked) == 1 else f"none of the {len(asked)} cells can run"
    raise UserError(f"{count}{f': {reasons[0]}' if len(reasons) == 1 else ', for the reasons above'}")


def print_refused(cells: Sequence[Cell], uncomposed: Mapping[str, Sequence[str]] = NO_LABELS) -> None:
    """Print each reason to refuse cells once; the arguments are those of `check_any`."""
    for reason, labels in [*uncomposed.items(), *_reasons(cells).items()]:
        others = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        log.info("%s", wrapped(": ".join(filter(None, ("refused", f"{labels[0]}{others}", reason)))))


def _reasons(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """The cells, by name, that are refused for each reason."""
    labels: dict[str, list[str]] = {}
    for cell in cells:
        if cell.refused:
            labels.setdefault(cell.refused, []).append(cell.label)
    return labels


def record_refused(cells: Sequence[Cell]) -> None:
    """Write a record of each refused cell, unless one is there that says as much."""
    with ThreadPoolExecutor(8) as pool:  # each record waits for the disk, and they may wait together
        list(pool.map(_record, [cell for cell in cells if cell.refused]))


def _record(cell: Cell) -> None:
    if cell.record is not None and (cell.record.status in FINISHED or cell.record.reason == cell.refused):
        return
    try:
        write_result(cell.folder, CellResult(**describe(cell.config), status="refused", reason=cell.refused))
    except NewerSchemaError:  # which may be why it is refused
        pass
    except UserError as error:  # the other cells can run all the same
        log.warning("%s", wrapped(f"no record of {cell.label}, which is refused: {error}"))
