"""What an engine's worker does with a cell: it runs it in a process of its own, and sees that a record is left."""

import math
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
from omegaconf import DictConfig

from normzoo.sweep.cell_lock import Claim
from normzoo.sweep.claimed import claimed
from normzoo.sweep.compose import Composition
from normzoo.sweep.devices import Leases, visible_gpus
from normzoo.sweep.hydra_task import parsed
from normzoo.sweep.job import Job
from normzoo.sweep.outcome import failed, limits, settle
from normzoo.sweep.plan import Cell
from normzoo.sweep.pool import Elsewhere, Pool
from normzoo.sweep.signals import Stop
from normzoo.sweep.supervisor import Ending
from normzoo.training.machine import processor_cores

LOG = "cell.log"
STAMP = "NORMZOO_STAMP"  # the variable that has the stamp of the record that was there when the cell was planned


def this_process() -> tuple[int, float]:
    """The id of this process, and when it began, which tells it from a later one of that id."""
    return os.getpid(), psutil.Process().create_time()


@cache
def end_with(process: int, began: float) -> None:
    """End this worker once that process is gone, and with it what runs below: its engine would go on."""

    def lives() -> bool:
        try:
            found = psutil.Process(process)
            return found.create_time() == began and found.status() != psutil.STATUS_ZOMBIE
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
        sweep: The process on this machine, from `this_process`, that the worker is not to outlive; None for one that
            the engine ends, or that goes on alone.
    """

    task: TaskFunction
    sweep: tuple[int, float] | None = None

    def __call__(self, config: DictConfig) -> float:
        if self.sweep is not None and self.sweep[0] != os.getpid():
            end_with(*self.sweep)
        folder = Path(HydraConfig.get().runtime.output_dir)
        cell = Cell(Composition(b""), parsed(config), folder, stamp=os.environ.get(STAMP, ""))
        gpus = visible_gpus() if cell.config.on_gpu else []  # those that the engine lends
        job = Job(
            self.task,
            (config,),
            log=cell.folder / LOG,
            need=replace(cell.config.resources, gpus=len(gpus)),
            limits=limits(cell.config),
            environment={"OMP_NUM_THREADS": str(cell.config.trainer.threads)},
        )

        def claim(index: int) -> Claim | Elsewhere:
            return claimed(cell, resume=cell.config.sweep.resume)

        def end(index: int, ending: Ending) -> None:
            settle(cell, ending)

        def fail(index: int, reason: str) -> None:
            failed(cell, "error", reason)

        with Stop() as stop:
            # Forked from this process, which has imported what the cell needs and has run nothing of it.
            context = multiprocessing.get_context("fork")
            pool = Pool(context, Leases(gpus, processor_cores()), 1, stop, claim=claim, on_end=end, on_fail=fail)
            if pool.run([job]):
                raise KeyboardInterrupt
        result = cell.result()
        error = result.metrics.get("val_error_running") if result is not None and result.status == "ok" else None
        return math.inf if error is None else error
