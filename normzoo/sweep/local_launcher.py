"""Run a sweep on this machine, every cell in a process of its own."""

import contextlib
import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from hydra import version
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import OmegaConf

from normzoo.errors import UserError
from normzoo.results import CellResult
from normzoo.resume_command import command_of, go_on
from normzoo.sweep.cell import Cell
from normzoo.sweep.compose import Composition
from normzoo.sweep.devices import Leases, cells_that_fit, check_cells_per_gpu, visible_gpus
from normzoo.sweep.dry_run import table
from normzoo.sweep.fork_server import fork_server
from normzoo.sweep.live_table import progress_of
from normzoo.sweep.plan import Plan, plan, searches
from normzoo.sweep.pool import Pool
from normzoo.sweep.signals import Stop, interrupt_on_end
from normzoo.sweep.supervisor import Ending
from normzoo.text import counted, wrapped
from normzoo.training.callbacks import error_so_far
from normzoo.training.machine import processor_cores

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import CellLauncher, NormzooLauncher

log = logging.getLogger("normzoo")


def launch(launcher: "NormzooLauncher", job_overrides: list[list[str]], initial_job_idx: int) -> Sequence[JobReturn]:
    """Plan and check all cells, then run those that can run and have no result yet.

    Args:
        launcher: Set up by Hydra.
        job_overrides: Of each cell.
        initial_job_idx: The number of the first cell.

    Returns:
        For each cell its error in percent; infinity for one that was refused or failed.
    """
    if launcher.n_jobs is not None and not (type(launcher.n_jobs) is int and launcher.n_jobs >= 1):
        raise UserError(f"hydra.launcher.n_jobs={launcher.n_jobs} must be 1 or more, or null for all cores")
    check_cells_per_gpu(launcher.cells_per_gpu)
    interrupt_on_end()
    dry_run = OmegaConf.select(launcher.config, "sweep.dry_run")
    with contextlib.nullcontext() if dry_run else fork_server() as context:
        planned = plan(launcher, job_overrides, initial_job_idx)
        # With auto, a limit chosen by the cells so far could be too little for those to come.
        auto = launcher.cells_per_gpu == "auto"
        share = launcher.cells_per_gpu if isinstance(launcher.cells_per_gpu, int) else 1
        leases = Leases(visible_gpus(), processor_cores(), share, limited=not auto)
        n_jobs = max(1, leases.at_once(cell.config.resources for cell in planned.to_run[: launcher.n_jobs]))
        folder = launcher.config.hydra.sweep.dir
        if planned.options.dry_run:
            print(table(planned, n_jobs, folder))
            return []
        log.info("%s", wrapped(planned.line(n_jobs, folder)))
        run = _Run(launcher, planned, n_jobs)
        left = run.through(context, leases)
    if run.alike.said and not run.stop.now:  # what drains the sweep is no signal
        if left:
            _end_failing(launcher, run.alike, left)
    elif run.stop.draining:
        _say_goodbye(launcher, left, run.stop.now)
    return returned(launcher, planned)


class FirstFailures:
    """Tells when the first cells of a sweep have all failed with one error, which the others would repeat.

    Args:
        most: How many may; None for any number.
    """

    def __init__(self, most: int | None) -> None:
        self.most, self.count, self.said = most, 0, ""
        self._error: tuple[str, str] | None = None

    def add(self, result: CellResult) -> bool:
        """Count a cell that has ended, and return whether to start no more.

        Errors that differ only in numbers, such as shapes, and the cell's name are one error.
        """
        error = (result.status, re.sub(r"\d+", "·", (result.reason or "").replace(result.cell, "·")))
        if self.most is None or result.status not in ("error", "oom", "timeout") or self._error not in (None, error):
            self.most = None  # from now on other cells may do better
            return False
        self._error, self.count = error, self.count + 1
        if self.count >= self.most:
            self.said = (result.reason or result.status).split("\n")[0]
        return self.count >= self.most


class _Run:
    """The cells of one sweep while they run."""

    def __init__(self, launcher: "NormzooLauncher", planned: Plan, n_jobs: int) -> None:
        self.launcher, self.cells, self.resume = launcher, planned.to_run, planned.options.resume
        self.progress = progress_of(self.cells, n_jobs)
        self.stop = Stop(self._say_draining)
        self.alike = FirstFailures(planned.options.stop_after_failures)
        self.said_waiting = False
        self.most_memory = 0.0  # GiB of GPU memory that a cell has taken, with cells_per_gpu=auto

    def through(self, context: Any, leases: Leases) -> int:
        """Run the cells, and return how many a signal has left without an end."""
        with self.progress, self.stop:
            self.pool = Pool(
                context, leases, self.launcher.n_jobs, self.stop,
                lock=lambda index: self.cells[index].lock(resume=self.resume),
                on_start=self.progress.start, on_end=self._end, on_fail=self._fail, on_elsewhere=self._elsewhere,
                on_wait=self._wait,
            )  # fmt: skip
            hydra = self.launcher.hydra_context, self.launcher.task_function
            return len(self.pool.run([cell.job(_run_cell, *hydra, cell.composition) for cell in self.cells]))

    def _end(self, index: int, ending: Ending) -> None:
        result = self.cells[index].settle(ending)
        if self.launcher.cells_per_gpu == "auto":
            self._share_gpus(result.device)
        self._count(index, result)

    def _share_gpus(self, device: Mapping[str, Any]) -> None:
        """Let as many cells share a GPU as the memory of those that have ended allows."""
        peak, leases = device.get("peak_memory_gib"), self.pool.leases
        if not leases.gpus or peak is None or peak <= self.most_memory:
            return
        self.most_memory = peak
        fit = cells_that_fit(peak, device["memory_gib"], len(leases.cores) // len(leases.gpus))
        if fit != leases.cells_per_gpu:
            leases.cells_per_gpu = fit
            log.info("%s", wrapped(f"up to {fit} at a time on each GPU: a cell has taken {peak:.2f} GiB of it"))

    def _fail(self, index: int, reason: str) -> None:
        self.progress.start(index)
        self._count(index, self.cells[index].fail("error", reason))

    def _count(self, index: int, result: CellResult) -> None:
        self.progress.end(index, result)
        if self.alike.add(result):
            self.stop.drain()

    def _elsewhere(self, index: int) -> None:
        result = self.cells[index].result()
        assert result is not None
        self.progress.end(index, result, elsewhere=True)

    def _wait(self) -> None:
        self.progress.show_running([error_so_far(self.cells[index].folder) for index in self.progress.running])
        if self.pool.elsewhere and not self.pool.running and not self.said_waiting:
            self.said_waiting = True
            waiting = counted(len(self.pool.elsewhere))
            log.info("waiting for %s that another sweep into this folder runs", waiting)

    def _say_draining(self) -> None:
        count = len(self.pool.running)
        finish = "1 running cell finishes" if count == 1 else f"{count} running cells finish"
        log.info("interrupted: %s, no more start; Ctrl-C again stops at once", finish)


def returned(launcher: "CellLauncher", planned: Plan) -> list[JobReturn]:
    """Return what Hydra is given of each cell; end here if one has left no record, of which no report knows."""
    if any(cell.lost for cell in planned.cells) and not searches(launcher.config):
        with contextlib.suppress(SystemExit):
            launcher.hydra_context.callbacks.on_multirun_end(config=launcher.config, config_name=None)
        sys.exit(1)
    return [_job_return(cell) for cell in planned.asked]


def _job_return(cell: Cell | None) -> JobReturn:
    job = JobReturn(status=JobStatus.COMPLETED, overrides=[cell.label] if cell is not None else [])
    job.return_value = math.inf if cell is None else cell.error
    return job


def _say_goodbye(launcher: "NormzooLauncher", left: int, at_once: bool) -> NoReturn:
    """Report what there is, unless in a hurry, and end with the command that resumes."""
    folder = launcher.config.hydra.sweep.dir
    if not at_once:
        with contextlib.suppress(SystemExit):  # the exit code tells that it was interrupted
            # The report prints no command: the one that resumes the sweep is printed below.
            launcher.hydra_context.callbacks.on_multirun_end(config=launcher.config, config_name=None, goes_on=left > 0)
    if not left:
        raise KeyboardInterrupt(f"interrupted when no cell was left to run; the results are in {folder}")
    cells = "1 cell is" if left == 1 else f"{left} cells are"
    raise KeyboardInterrupt(
        f"interrupted; {cells} left, what has finished is kept; this command resumes it:\n"
        f"  {go_on(folder, command_of(launcher.config))}"
    )


def _end_failing(launcher: "NormzooLauncher", alike: FirstFailures, left: int) -> NoReturn:
    """Report what there is, and end with the error and the command that resumes."""
    folder = launcher.config.hydra.sweep.dir
    with contextlib.suppress(SystemExit):
        launcher.hydra_context.callbacks.on_multirun_end(config=launcher.config, config_name=None, goes_on=True)
    print(
        f"\nstopped: the first {alike.count} cells failed with the same error, {alike.said!r}; {counted(left)} not "
        f"started. To resume once it is fixed (sweep.stop_after_failures=null runs all in any case):\n"
        f"  {go_on(folder, command_of(launcher.config), retry='failed')}"
    )
    sys.exit(1)


def _run_cell(hydra_context: HydraContext, task: TaskFunction, composition: Composition) -> None:
    """Do in the cell's own process what Hydra's launchers do for each job."""
    version.setbase("1.3")
    setup_globals()
    run_job(
        hydra_context=hydra_context,
        task_function=task,
        config=composition.config(),
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
