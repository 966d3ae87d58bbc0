"""A sweep on this machine: every cell in a process of its own."""

import json
import logging
import math
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra import version
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction

from normzoo.errors import UserError
from normzoo.results import CellResult, write_result
from normzoo.sweep.pool import Job, fork_server, run_jobs
from normzoo.sweep.progress import Progress
from normzoo.training.callbacks import CURVE
from normzoo.training.cell import describe
from normzoo.training.check import cores, on_gpu
from normzoo.training.compose import Composition
from normzoo.training.dry_run import table
from normzoo.training.plan import CHECKPOINT, Cell, State, plan

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import NormzooLauncher

log = logging.getLogger("normzoo")


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
    if launcher.n_jobs is not None and launcher.n_jobs < 1:
        raise UserError(f"hydra.launcher.n_jobs={launcher.n_jobs} must be 1 or more, or null for all cores")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that an ended sweep ends its cells
    threads = str(launcher.config.trainer.threads)
    with fork_server(["normzoo.training.cell", "hydra.core.utils"], {"OMP_NUM_THREADS": threads}) as context:
        planned = plan(launcher, job_overrides, initial_job_idx)
        todo = planned.todo
        n_jobs = _n_jobs(todo) if launcher.n_jobs is None else launcher.n_jobs
        if planned.options.dry_run:
            print(table(planned, n_jobs, launcher.config.hydra.sweep.dir))
            return []
        log.info("%s", planned.line(n_jobs, launcher.config.hydra.sweep.dir))
        _run(context, launcher, todo, n_jobs, planned.options.resume)
    return [_job_return(cell) for cell in planned.asked]


def _n_jobs(cells: list[Cell]) -> int:
    if any(on_gpu(cell.config) for cell in cells):
        return 1
    trainers = [cell.config["trainer"] for cell in cells]
    cores_each = max((trainer["devices"] * trainer["threads"] for trainer in trainers), default=1)
    return max(1, min(cores() // cores_each, len(cells)))


def _run(context: Any, launcher: "NormzooLauncher", cells: list[Cell], n_jobs: int, resume: bool) -> None:
    norms = [cell.config["norm"]["name"] for cell in cells]
    progress = Progress([cell.label for cell in cells], [cell.cost for cell in cells], n_jobs, norms=norms)
    jobs = []
    for cell in cells:
        cell.folder.mkdir(parents=True, exist_ok=True)
        # Nothing is taken away that counts: an old record stays until the new one is there.
        if cell.state is not State.CONTINUES:
            (cell.folder / CURVE).unlink(missing_ok=True)
        if not resume:
            (cell.folder / CHECKPOINT).unlink(missing_ok=True)
        arguments = (launcher.hydra_context, launcher.task_function, cell.composition)
        jobs.append(Job(_run_cell, arguments, cell.folder / "cell.log"))

    def end(index: int, exit_code: int) -> None:
        outcome = _outcome(cells[index], exit_code)
        result = cells[index].result(new=True)
        ok = result is not None and result.status == "ok"
        error = result.metrics.get("val_error_running") if result is not None and ok else None
        progress.end(index, outcome, error, failed=not ok)

    with progress:
        run_jobs(
            context, jobs, n_jobs, progress.start, end,
            lambda: progress.show_running([_error_so_far(cells[i]) for i in progress.running]),
        )  # fmt: skip


def _run_cell(hydra_context: HydraContext, task: TaskFunction, composition: Composition) -> None:
    """In the cell's own process: what Hydra's launchers do for each job."""
    version.setbase("1.3")
    setup_globals()
    run_job(
        hydra_context=hydra_context,
        task_function=task,
        config=composition.config(),
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _outcome(cell: Cell, exit_code: int) -> str:
    result = cell.result(new=True)
    if result is None:
        result = CellResult(
            **describe(cell.config),
            status="error" if exit_code > 0 else "killed",
            reason=f"its process ended with {f'signal {-exit_code}' if exit_code < 0 else f'exit code {exit_code}'}; "
            f"see {cell.folder.name}/cell.log",
            curve=_curve_so_far(cell),
        )
        write_result(cell.folder, result)
    if result.status == "ok":
        error = result.metrics.get("val_error_running")
        return "no validation" if error is None else f"error {error:.2f} %"
    return f"{result.status}: {(result.reason or '').splitlines()[0]:.120}"


def _curve_so_far(cell: Cell) -> list[dict[str, float | None]]:
    try:
        return json.loads((cell.folder / CURVE).read_bytes())
    except (OSError, ValueError):
        return []


def _error_so_far(cell: Cell) -> str:
    curve = _curve_so_far(cell)
    return f"{curve[-1]['val_error_running']:.1f} %" if curve else "-"


def _job_return(cell: Cell | None) -> JobReturn:
    """Infinity for a cell without an error of its own, so that a search turns elsewhere."""
    result = cell.result() if cell is not None and not cell.refused else None
    done = result is not None and result.status == "ok"
    error = result.metrics.get("val_error_running") if result is not None and done else None
    returned = JobReturn(status=JobStatus.COMPLETED, overrides=[cell.label] if cell is not None else [])
    returned.return_value = math.inf if error is None else error
    return returned
