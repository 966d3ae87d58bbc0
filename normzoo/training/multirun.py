"""A sweep on this machine: every cell planned and checked first, then each in a process of its own."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from normzoo.errors import UserError
from normzoo.results import CellResult, cell_id, read_result, write_result
from normzoo.sweep.pool import Job, fork_server, run_jobs
from normzoo.sweep.progress import Progress
from normzoo.training.build import build_data, global_batch
from normzoo.training.callbacks import CURVE
from normzoo.training.cell import describe, write_probe
from normzoo.training.check import RefusedError, check_cell
from normzoo.training.task import plain

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import NormzooLauncher

log = logging.getLogger("normzoo")

STEPS_TO_START = 300  # what starting a cell costs, in steps; only the time left is told from it


@dataclass
class Cell:
    """One cell of a sweep, planned."""

    hydra_config: DictConfig
    config: dict[str, Any]
    folder: Path
    label: str = ""
    num_train: int = 0
    refused: str | None = None

    @property
    def cost(self) -> float:
        """Roughly, in optimizer steps."""
        return self.config["trainer"]["max_epochs"] * self.num_train / global_batch(self.config) + STEPS_TO_START

    def result(self) -> CellResult | None:
        """The record, where there is one that can be read."""
        with contextlib.suppress(UserError):
            return read_result(self.folder)
        return None


def launch(launcher: "NormzooLauncher", job_overrides: list[list[str]], initial_job_idx: int) -> Sequence[JobReturn]:
    """Plan and check all cells, then run those that can be and have no result yet.

    Args:
        launcher: Set up by Hydra.
        job_overrides: Of each cell.
        initial_job_idx: The number of the first cell.

    Returns:
        For each cell its error in percent; infinity for one that was refused or failed.
    """
    setup_globals()
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    threads = str(launcher.config.trainer.threads)
    with fork_server(["normzoo.training.cell", "hydra.core.utils"], {"OMP_NUM_THREADS": threads}) as context:
        cells = plan(launcher, job_overrides, initial_job_idx)
        todo = [cell for cell in cells if not cell.refused and not _finished(cell)]
        refused = sum(cell.refused is not None for cell in cells)
        n_jobs = launcher.n_jobs or _n_jobs(todo)
        log.info(
            "%d cells: %d to run, %d at a time; %d done before, %d refused",
            len(cells), len(todo), n_jobs, len(cells) - len(todo) - refused, refused,
        )  # fmt: skip
        _run(context, launcher, todo, n_jobs)
    return [_job_return(cell) for cell in cells]


def plan(launcher: "NormzooLauncher", job_overrides: list[list[str]], first: int) -> list[Cell]:
    """Compose every cell and refuse those that cannot be, by name, before anything trains.

    Raises:
        UserError: If an option is wrong in itself, a data set is missing, the folder cannot be written, or no cell is left.
    """
    sweep_folder = Path(launcher.config.hydra.sweep.dir).absolute()
    write_probe(sweep_folder)
    constant = set.intersection(*(set(overrides) for overrides in job_overrides)) if len(job_overrides) > 1 else set()
    cells: dict[str, Cell] = {}
    datasets: dict[str, Any] = {}
    verdicts: dict[str, str | None] = {}
    for number, overrides in enumerate(job_overrides, start=first):
        cell = _compose(launcher, overrides, number, sweep_folder)
        cell.label = " ".join(o for o in filter_overrides(overrides) if o not in constant) or cell.folder.name
        if cell.folder.name in cells:
            continue
        cells[cell.folder.name] = cell
        data = _once(datasets, cell.config["data"], lambda cell=cell: _ready(cell.config))
        cell.num_train = data.num_train
        unseeded = {key: value for key, value in cell.config.items() if key != "seed"}
        cell.refused = _once(verdicts, unseeded, lambda cell=cell, data=data: _verdict(cell, data))
        if cell.refused:
            write_result(cell.folder, CellResult(**describe(cell.config), status="refused", reason=cell.refused))
    _say_refused(list(cells.values()))
    return list(cells.values())


def _compose(launcher: "NormzooLauncher", overrides: list[str], number: int, sweep_folder: Path) -> Cell:
    composed = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = str(number)
        composed.hydra.job.num = number
    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(composed)
        with read_write(composed.hydra.runtime), open_dict(composed.hydra.runtime):
            composed.hydra.runtime.output_dir = str(sweep_folder)  # a logger's path refers to it; no part of the identity
        task = composed.copy()
        with open_dict(task):
            del task["hydra"]
        config = plain(task)
    finally:
        HydraConfig.instance().cfg = before
    identity = cell_id(config)
    with read_write(composed.hydra.sweep):
        composed.hydra.sweep.dir = str(sweep_folder)
        composed.hydra.sweep.subdir = identity
    return Cell(composed, config, sweep_folder / identity)


def _ready(config: dict[str, Any]) -> Any:
    data: Any = build_data({**config, "batch_size_per_device": 1})  # whether a batch fits is asked of each cell
    data.prepare_data()
    data.setup("fit")
    return data


def _verdict(cell: Cell, data: Any) -> str | None:
    try:
        check_cell(cell.config, data)
    except RefusedError as error:
        return str(error)
    return None


def _once(known: dict[str, Any], of: Any, make: Any) -> Any:
    key = json.dumps(of, sort_keys=True, default=str)
    if key not in known:
        known[key] = make()
    return known[key]


def _say_refused(cells: list[Cell]) -> None:
    labels: dict[str, list[str]] = {}
    for cell in cells:
        if cell.refused:
            labels.setdefault(cell.refused, []).append(cell.label)
    for reason, of in labels.items():
        others = f" and {len(of) - 1} more" if len(of) > 1 else ""
        log.info("refused: %s%s: %s", of[0], others, reason)
    if cells and all(cell.refused for cell in cells):
        raise UserError(f"none of the {len(cells)} cells can be; the first: {cells[0].refused}")


def _n_jobs(cells: list[Cell]) -> int:
    trainers = [cell.config["trainer"] for cell in cells]
    if not all(trainer["accelerator"] == "cpu" for trainer in trainers) and os.path.exists("/dev/nvidia0"):
        return 1
    cores_each = max((trainer["devices"] * trainer["threads"] for trainer in trainers), default=1)
    return max(1, (os.cpu_count() or 1) // cores_each)


def _finished(cell: Cell) -> bool:
    result = cell.result()
    return result is not None and result.status in ("ok", "diverged")


def _run(context: Any, launcher: "NormzooLauncher", cells: list[Cell], n_jobs: int) -> None:
    progress = Progress([cell.label for cell in cells], [cell.cost for cell in cells], n_jobs)
    jobs = []
    for cell in cells:
        cell.folder.mkdir(parents=True, exist_ok=True)
        (cell.folder / "result.json").unlink(missing_ok=True)
        arguments = (launcher.hydra_context, launcher.task_function, cell.hydra_config)
        jobs.append(Job(_run_cell, arguments, cell.folder / "cell.log"))

    def end(index: int, exit_code: int) -> None:
        progress.end(index, _outcome(cells[index], exit_code))

    run_jobs(
        context, jobs, n_jobs, progress.start, end,
        lambda: progress.show_running([_error_so_far(cells[i]) for i in progress.running]),
    )  # fmt: skip


def _run_cell(hydra_context: HydraContext, task: TaskFunction, config: DictConfig) -> None:
    """In the cell's own process: what Hydra's launchers do for each job."""
    version.setbase("1.3")
    setup_globals()
    run_job(
        hydra_context=hydra_context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _outcome(cell: Cell, exit_code: int) -> str:
    result = cell.result()
    if result is None:
        result = CellResult(
            **describe(cell.config),
            status="killed" if exit_code < 0 else "failed",
            reason=f"its process ended with {f'signal {-exit_code}' if exit_code < 0 else f'exit code {exit_code}'}; "
            f"see {cell.folder.name}/cell.log",
            curve=_curve_so_far(cell),
        )
        write_result(cell.folder, result)
    if result.status == "ok":
        return f"error {result.metrics['val_error_running']:.2f} %"
    return f"{result.status}: {(result.reason or '').splitlines()[0]:.120}"


def _curve_so_far(cell: Cell) -> list[dict[str, float | None]]:
    try:
        return json.loads((cell.folder / CURVE).read_bytes())
    except (OSError, ValueError):
        return []


def _error_so_far(cell: Cell) -> str:
    curve = _curve_so_far(cell)
    return f"{curve[-1]['val_error_running']:.1f} %" if curve else "-"


def _job_return(cell: Cell) -> JobReturn:
    result = cell.result()
    done = result is not None and result.status == "ok"
    error = result.metrics.get("val_error_running") if result is not None and done else None
    returned = JobReturn(cfg=cell.hydra_config, status=JobStatus.COMPLETED, overrides=[cell.label])
    returned.return_value = math.inf if error is None else error
    return returned
