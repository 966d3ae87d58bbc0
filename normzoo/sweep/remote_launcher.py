"""Run a sweep on another engine: Ray, Slurm through submitit, joblib.

The cells are planned here. Those that are to run go to Hydra's launcher for the engine, which runs `InOwnProcess` for
each: a cell that dies takes no worker of the engine with it.
"""

import logging
import os
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from normzoo.errors import UserError
from normzoo.resume_command import command_of, go_on, hydra_quoted
from normzoo.sweep import fork_server, ray_cluster
from normzoo.sweep.cell import NEVER_STARTED, RETRY, Cell, summary
from normzoo.sweep.cell_lock import CellLock
from normzoo.sweep.dry_run import table
from normzoo.sweep.live_table import progress_of
from normzoo.sweep.local_launcher import returned
from normzoo.sweep.plan import check_any, plan, print_refused, record_refused, searches
from normzoo.sweep.progress import Watch
from normzoo.sweep.signals import interrupt_on_end
from normzoo.sweep.worker import STAMP, InOwnProcess, this_process
from normzoo.text import wrapped
from normzoo.training.config import CellConfig, Resources
from normzoo.training.machine import processor_cores, short_folder, where_full

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import EngineLauncher

LIBRARIES = {"ray": "ray", "slurm": "submitit", "joblib": "joblib"}
log = logging.getLogger("normzoo")


def launch(launcher: "EngineLauncher", job_overrides: list[list[str]], initial_job_idx: int) -> Sequence[JobReturn]:
    """Plan and check all cells, hand those that are to run to the engine, and see that each has a record in the end.

    Cells that need different resources are handed over one kind after the other.

    Args:
        launcher: Set up by Hydra.
        job_overrides: Of each cell.
        initial_job_idx: The number of the first cell.

    Returns:
        For each cell its error in percent; infinity for one that was refused or failed.

    Raises:
        UserError: If the engine is not installed, or could not start a single cell.
    """
    fork_server.stop_server()  # one that was started before the configuration named an engine serves nobody
    interrupt_on_end()
    if launcher.extra == "ray":
        os.environ.setdefault("RAY_TMPDIR", short_folder(35))  # to which its sockets add some 70 characters
    engine_class = _engine_class(launcher)
    planned = plan(launcher, job_overrides, initial_job_idx)
    folder = launcher.config.hydra.sweep.dir
    kinds: dict[Resources, list[Cell]] = {}
    for cell in planned.to_run:
        kinds.setdefault(needed_by(cell.config, launcher), []).append(cell)
    unfit: list[Cell] = []
    if launcher.extra == "ray":
        for needed, cells in kinds.items():
            unfit += _too_large(needed, cells, launcher)
        if not searches(launcher.config):
            check_any(planned.asked)
    if planned.options.dry_run:
        print(table(planned, max(1, len(planned.to_run)), folder))
        return []
    record_refused(unfit)
    log.info("%s", wrapped(planned.line(len(planned.to_run), folder)))
    kinds = {needed: [cell for cell in cells if cell.runs and _has_folder(cell)] for needed, cells in kinds.items()}
    to_run = [cell for cells in kinds.values() for cell in cells]
    errors: dict[str, str] = {}
    started = time.time()
    interrupt_on_end()  # again, as Ray has set a handler of its own
    try:
        with Watch(to_run, progress_of(to_run, len(to_run))):
            for needed, cells in kinds.items():
                if cells:
                    engine = engine_class(**fitted(launcher.extra, launcher.options, needed, cells))
                    errors |= dict.fromkeys((cell.folder.name for cell in cells), _run(engine, launcher, cells))
    except KeyboardInterrupt:
        may = "" if launcher.devices_here else ", what the engine still runs may finish"
        raise KeyboardInterrupt(
            f"interrupted; what has finished is kept{may}; this command resumes it:\n"
            f"  {go_on(folder, command_of(launcher.config))}"
        ) from None
    _settle(to_run, errors, started)
    return returned(launcher, planned)


def _has_folder(cell: Cell) -> bool:
    """Whether the cell can be handed over: its worker writes into the folder before any of our code runs there."""
    try:
        if os.path.lexists(cell.folder) and (lock := CellLock.acquire(cell.folder)):
            lock.release()
    except UserError as error:
        _print_failed(cell, str(error))
        return False
    return True


def _print_failed(cell: Cell, reason: str) -> None:
    log.info("%s", wrapped(f"{cell.label}: {summary(cell.fail('error', reason))}"))


def needed_by(config: CellConfig, launcher: "EngineLauncher") -> Resources:
    """Return what a cell asks of its engine; whether it gets GPUs depends on where its engine runs it."""
    if launcher.devices_here:
        return config.resources
    # A login node knows nothing of the other nodes, but a Ray cluster can be asked.
    accelerator = config.trainer.accelerator
    gpu = accelerator in ("gpu", "cuda") or (
        launcher.extra == "ray"
        and accelerator == "auto"
        and any(node.get("GPU", 0) > 0 for node in ray_cluster.nodes(launcher.options["ray"]["init"]))
    )
    return config.resources_on(gpu=gpu)


def fitted(extra: str, options: dict[str, Any], needed: Resources, cells: Sequence[Cell]) -> dict[str, Any]:
    """Complete the options of the engine's launcher by what cells of this kind need, where the user has not set it.

    Args:
        extra: Which engine it is.
        options: Those of the user.
        needed: By each cell.
        cells: Of this kind.
    """
    options = OmegaConf.to_container(OmegaConf.create(options), resolve=True)  # type: ignore[assignment]
    if extra == "ray":
        remote = {"num_cpus": needed.cores, "num_gpus": needed.gpus, **(options["ray"].get("remote") or {})}
        options["ray"] = OmegaConf.create({**options["ray"], "remote": remote})
    elif extra == "slurm":
        options["cpus_per_task"] = options.get("cpus_per_task") or needed.cores
        if options.get("gpus_per_node") is None and not options.get("gres"):
            options["gpus_per_node"] = needed.gpus or None
    elif options.get("n_jobs", -1) == -1:
        # Its workers know nothing of each other, and would all take the first GPU.
        options["n_jobs"] = 1 if needed.gpus else max(1, min(len(processor_cores()) // needed.cores, len(cells)))
    return options


def _engine_class(launcher: "EngineLauncher") -> Any:
    module, _, name = launcher.engine.rpartition(".")
    try:
        import_module(LIBRARIES[launcher.extra])
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        chosen = launcher.config.hydra.runtime.choices["hydra/launcher"]
        raise UserError(
            f"hydra/launcher={chosen} needs {error.name}: pip install 'normzoo[{launcher.extra}]'"
        ) from error


def _too_large(needed: Resources, cells: Sequence[Cell], launcher: "EngineLauncher") -> Sequence[Cell]:
    """Refuse cells of a kind that no node of the Ray cluster can ever hold, and return them."""
    ray = fitted(launcher.extra, launcher.options, needed, cells)["ray"]
    reason = ray_cluster.too_much(ray["remote"]["num_cpus"], ray["remote"]["num_gpus"], ray_cluster.nodes(ray["init"]))
    if reason is None:
        return []
    if ray_cluster.may_grow(ray["init"]):
        log.info("%s", wrapped(f"waits until the Ray cluster has such a node: {cells[0].label}: {reason}"))
        return []
    for cell in cells:
        cell.refuse(reason)
    print_refused(cells)
    return cells


def _run(engine: Any, launcher: "EngineLauncher", cells: Sequence[Cell]) -> str:
    """Have the engine run the cells; return its error, if it ended with one."""
    engine.setup(
        hydra_context=launcher.hydra_context,
        task_function=InOwnProcess(launcher.task_function, this_process() if launcher.devices_here else None),
        config=launcher.config,
    )
    overrides = [
        [
            *cell.overrides,
            f"hydra.sweep.dir={hydra_quoted(str(cell.folder.parent))}",
            f"hydra.sweep.subdir={cell.folder.name}",
            f"+hydra.job.env_set.{STAMP}={cell.stamp}",
        ]
        for cell in cells
    ]
    try:
        engine.launch(overrides, initial_job_idx=0)
    except Exception as error:
        log.debug("the engine", exc_info=True)
        return f"{type(error).__name__}: {error}"
    return ""


def _settle(cells: Sequence[Cell], errors: dict[str, str], since: float) -> None:
    """See that each cell has a record, also one whose worker was lost before or while it ran.

    Raises:
        UserError: If the engine has started none.
    """
    lost = [cell for cell in cells if cell.result(new=True) is None]
    started = {cell.folder for cell in lost if _written(cell.folder / "cell.log") > since - 1}
    if lost and len(lost) == len(cells) and not started:
        why = errors[lost[0].folder.name] or "it gives no reason"
        raise UserError(f"the engine has not started a single cell: {why}{where_full(why, lost[0].folder)}")
    for cell in lost:
        try:
            lock = CellLock.acquire(cell.folder)
        except UserError as error:
            _print_failed(cell, str(error))
            continue
        if lock is None:
            log.info("%s still runs; its record will be in %s", cell.label, cell.folder)
            continue
        # A record that was there already says more than that this run never started the cell.
        if cell.result(new=cell.folder in started) is None:
            why = " ".join(errors[cell.folder.name].split())[:500] or "no reason given"
            # One that waits in the engine's queue may still run, and then replaces this record by its own.
            how = "its worker has ended without its result" if cell.folder in started else NEVER_STARTED
            result = cell.fail("killed", f"{how}; the engine says: {why}; {RETRY}")
            log.info("%s", wrapped(f"killed: {cell.label}: {result.reason}"))
        lock.release()


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
