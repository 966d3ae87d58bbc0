"""Train a cell in one of its processes."""

import logging
import signal
import threading
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.constants import default_pg_timeout

from normzoo.training.callbacks import Divergence, EpochLines, RankCheck, Recorder
from normzoo.training.checkpoint import Checkpoints
from normzoo.training.checkpoint_io import AtomicCheckpointIO
from normzoo.training.chosen_callbacks import build_callbacks
from normzoo.training.config import CellConfig
from normzoo.training.distributed import DDP, rank, under_torchrun
from normzoo.training.gpu_memory import GpuMemory
from normzoo.training.instantiate import build_data, build_model, build_probes
from normzoo.training.module import Classifier
from normzoo.training.saved import Measurement
from normzoo.training.shape_trace import ShapeTrace, plan_processes, values_per_statistic
from normzoo.training.small_batches import convolving
from normzoo.training.trainable import choose_trained

log = logging.getLogger("normzoo")


@dataclass(frozen=True)
class Run:
    """A checked cell to train.

    Args:
        config: The cell's.
        folder: The cell's.
        record: The entries of its record that are known before it trains.
        trace: The shapes of a batch in its model.
        started: `time.perf_counter()` when the cell began.
        checkpoint: What to resume from; None to start from the beginning.
    """

    config: CellConfig
    folder: Path
    record: dict[str, Any]
    trace: ShapeTrace
    started: float
    checkpoint: Path | None = None


def fit(run: Run, data: Any = None) -> None:
    """Train; the first process writes the cell's `result.json`.

    Args:
        run: The same in every process.
        data: The data module, set up; None in a process that reads it itself.
    """
    config = run.config
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    torch.set_num_threads(config.trainer.threads)
    if data is None:
        data = build_data(config)
        data.setup("fit")
    model = build_model(config, data.image_shape, data.num_classes)
    choose_trained(model, config.optimizer.trains)
    plan_processes(model, config.world_size)
    few = [name for name, count in values_per_statistic(model, run.trace.shapes)[0].items() if count == 2]
    if few and rank() == 0:
        log.warning("each statistic of %s averages 2 values, so that a normalized value is only ±1", ", ".join(few))
    probes = build_probes(config)
    recorder = Recorder(run.folder, run.record, run.trace.shapes, config.lr, run.started, probes)
    every, resumes = config.sweep.checkpoint_every, run.checkpoint is not None
    own = build_callbacks(config)
    stateful = [*own, *probes]
    checkpoints = Checkpoints(run.folder, run.record["cell"], every, stateful, resumes=resumes)
    measurement = Measurement(run.folder, config.sweep.save)
    first = [GpuMemory(run.record), RankCheck(config), measurement]
    callbacks = [*first, Divergence(), EpochLines(), *stateful, recorder, checkpoints]
    trainer = build_trainer(config, run.folder, callbacks)
    plain = config.trainer.precision in (None, 32, "32", "32-true") and not config.on_gpu
    context = convolving(config.batch_size_per_device, run.trace.multiply_adds if plain else ())
    handlers = _handlers()
    try:
        trainer.fit(Classifier(model, data.num_classes, config, context), datamodule=data, ckpt_path=run.checkpoint)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # how Lightning ends what was interrupted
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if trainer.interrupted:
        raise KeyboardInterrupt


def build_trainer(config: CellConfig, folder: Path, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    """Build the Lightning trainer, in a process whose other ranks have been started already."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # The loaders do resume within an epoch, by a way that Lightning does not know; and what is logged is logged once an
    # epoch, however few its batches.
    for message in (
        ".*does not have many workers.*", ".*treespec, LeafSpec.*", ".*your dataloader is not resumable.*",
        ".*is smaller than the logging interval.*", ".*when logging on epoch level in distributed setting.*",
    ):  # fmt: skip
        warnings.filterwarnings("ignore", message)
    arguments = {**config.trainer.arguments, "accelerator": "cuda" if config.on_gpu else "cpu"}
    if arguments["strategy"] in DDP:
        limit = config.sweep.stall_limit
        timeout = default_pg_timeout if limit is None else timedelta(seconds=min(limit, 1e6))
        arguments["strategy"] = DDPStrategy(timeout=timeout) if under_torchrun() else "auto"
    if not under_torchrun():
        # Lightning would start the others by running the command line again, and with it the whole sweep.
        assert config.world_size == 1
    kinds = {"checkpointing": Checkpoint, "progress_bar": ProgressBar, "model_summary": ModelSummary}
    for option, kind in ((f"enable_{name}", kind) for name, kind in kinds.items()):  # Lightning wants to be told of
        arguments[option] = arguments.get(option, False) or any(isinstance(one, kind) for one in callbacks)
    logger_config = {key: value for key, value in config.logger.items() if key != "name"}
    return lightning.Trainer(
        **arguments,
        callbacks=callbacks,
        # Given and not detected: in a batch job Lightning would take this process for one of the job's.
        plugins=[TorchElasticEnvironment() if under_torchrun() else LightningEnvironment(), AtomicCheckpointIO()],
        logger=instantiate(logger_config) if logger_config else False,
        default_root_dir=folder,
        use_distributed_sampler=False,  # the data modules shard themselves
        num_sanity_val_steps=0,
    )


def _handlers() -> dict[signal.Signals, Any]:
    """Return the handlers of the signals that Lightning ignores, or handles itself, once it has been interrupted."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
