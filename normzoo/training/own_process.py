"""What an engine's worker does with a cell: it runs it in a process of its own, and sees that a record is left."""

import math
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig

from normzoo.sweep.claim import Claim
from normzoo.sweep.job import Job
from normzoo.sweep.keeper import Ending
from normzoo.sweep.leases import Leases, Need, visible_gpus
from normzoo.sweep.limits import Limits, processor_cores
from normzoo.sweep.options import sweep_options
from normzoo.sweep.pool import Elsewhere, Pool
from normzoo.sweep.stop import Stop
from normzoo.training.check import on_gpu
from normzoo.training.claimed import claimed
from normzoo.training.compose import Composition
from normzoo.training.ending import settle
from normzoo.training.plan import Cell
from normzoo.training.task import plain

LOG = "cell.log"
STAMP = "NORMZOO_STAMP"  # the variable that has the stamp of the record that was there when the cell was planned


@dataclass(frozen=True)
class InOwnProcess:
    """The task of a cell, run in a process of its own under the limits of the sweep; it takes no worker with it.

    Args:
        task: What Hydra was given to call.
    """

    task: TaskFunction

    def __call__(self, config: DictConfig) -> float:
        folder = Path(HydraConfig.get().runtime.output_dir)
        cell = Cell(Composition(b""), plain(config), folder, stamp=os.environ.get(STAMP, ""))
        options = sweep_options(cell.config)
        gpus = visible_gpus() if on_gpu(cell.config) else []  # those that the engine lends
        trainer = cell.config["trainer"]
        job = Job(
            self.task,
            (config,),
            log=cell.folder / LOG,
            need=Need(gpus=len(gpus), cores=trainer["devices"] * trainer["threads"]),
            limits=Limits(options.time_limit, options.memory_limit),
            environment={"OMP_NUM_THREADS": str(trainer["threads"])},
        )

        def claim(index: int) -> Claim | Elsewhere:
            return claimed(cell, resume=options.resume)

        def end(index: int, ending: Ending) -> None:
            settle(cell, ending)

        with Stop() as stop:
            # Forked from this process, which has imported what the cell needs and has run nothing of it.
            context = multiprocessing.get_context("fork")
            pool = Pool(context, Leases(gpus, processor_cores()), 1, stop, claim=claim, on_end=end)
            if pool.run([job]):
                raise KeyboardInterrupt
        result = cell.result()
        error = result.metrics.get("val_error_running") if result is not None and result.status == "ok" else None
        return math.inf if error is None else error
