"""Run a cell in an engine's worker: in a process of its own, and see that it leaves a record."""

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from normzoo.sweep.cell import Cell
from normzoo.sweep.compose import Composition
from normzoo.sweep.devices import Leases, visible_gpus
from normzoo.sweep.hydra_task import parsed
from normzoo.sweep.pool import Pool
from normzoo.sweep.signals import Stop
from normzoo.training.machine import processor_cores

STAMP = "NORMZOO_STAMP"  # names the stamp of the record that was there when the cell was planned


def this_process() -> tuple[int, float]:
    """Return the id of this process, and when it started, which tells it from a later one of that id."""
    return os.getpid(), psutil.Process().create_time()


@cache
def end_with(process: int, started: float) -> None:
    """End this worker, and what runs below it, once that process is gone: its engine would keep it running."""

    def lives() -> bool:
        try:
            found = psutil.Process(process)
            return found.create_time() == started and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def watch() -> None:
        while lives():
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class InOwnProcess:
    """The task of a cell, run in a process of its own under the limits of the sweep; it takes no worker with it.

    Args:
        task: What Hydra was given to call.
        sweep: The process on this machine, from `this_process`, that the worker must not outlive; None if the engine
            ends the worker, or lets it finish alone.
    """

    task: TaskFunction
    sweep: tuple[int, float] | None = None

    def __call__(self, config: DictConfig) -> float:
        """Run the cell and return its error, as Hydra expects of a task."""
        if self.sweep is not None and self.sweep[0] != os.getpid():
            end_with(*self.sweep)
        folder = Path(HydraConfig.get().runtime.output_dir)
        cell = Cell(Composition(b""), parsed(config), folder, stamp=os.environ.get(STAMP, ""))
        gpus = visible_gpus() if cell.config.on_gpu else []  # those that the engine lends
        job = replace(cell.job(self.task, config), need=replace(cell.config.resources, gpus=len(gpus)))
        with Stop() as stop:
            leases = Leases(gpus, processor_cores(), cells_per_gpu(HydraConfig.get().launcher))
            # Forked from this process, which has imported what the cell needs and has run nothing of it.
            pool = Pool(
                multiprocessing.get_context("fork"), leases, 1, stop,
                lock=lambda _: cell.lock(resume=cell.config.sweep.resume),
                on_end=lambda _, ending: cell.settle(ending),
                on_fail=lambda _, reason: cell.fail("error", reason),
            )  # fmt: skip
            if pool.run([job]):
                raise KeyboardInterrupt
        return cell.error


def cells_per_gpu(launcher: DictConfig) -> int:
    """Return how many cells share a GPU, of which Ray has been asked for a fraction."""
    fraction = OmegaConf.select(launcher, "ray.remote.num_gpus")
    return max(1, int(1 / fraction + 1e-6)) if fraction else 1
