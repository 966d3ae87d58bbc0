"""Callbacks of a cell's training: its record, its lines on the console, the end of a diverged one."""

import contextlib
import json
import logging
import random
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer

from normzoo.data.loader import mix
from normzoo.errors import UserError
from normzoo.files import read_file, write_atomic
from normzoo.probes.train_eval_gap import differs
from normzoo.recording import write_recording
from normzoo.results import CellResult, write_result
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.chosen_callbacks import stopped_early
from normzoo.training.config import CellConfig
from normzoo.training.distributed import AGENT, under_torchrun, world_size_here
from normzoo.training.shape_trace import Shapes, values_per_statistic
from normzoo.training.small_batches import CHECK_EVERY
from normzoo.training.trainable import counts

CURVE, STOP = "curve.json", "stop.txt"  # the second tells a cell of a search to end, and why
log = logging.getLogger("normzoo")

MODES = (("running", "val_error_running"), ("recomputed", "val_error_population"), ("batch", "val_error_batch"))


class RankCheck(Callback):
    """Check that as many processes train as configured, and seed each of them.

    Until the training starts, all have the same seed, for the same initial weights; with it, dropout would drop the
    same units in each.
    """

    def __init__(self, config: CellConfig) -> None:
        self.config = config

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Check the number of processes."""
        self._sigterm = signal.getsignal(signal.SIGTERM)  # Lightning has not yet set its own
        actual, asked = world_size_here(), self.config.world_size
        if actual != asked:
            nodes = self.config.trainer.num_nodes
            raise RuntimeError(
                f"{actual} processes train together, but trainer.devices={self.config.trainer.devices} and "
                f"trainer.num_nodes={nodes} ask for {asked}; batch sizes and learning rates would not be those recorded"
            )

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Let SIGTERM end the process, and seed it."""
        ends = under_torchrun() or self._sigterm is signal.SIG_DFL
        if ends and threading.current_thread() is threading.main_thread():
            # Lightning's handler would wait for the other ranks, which may be gone or stuck, and end the process with
            # exit code 0.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if trainer.global_rank > 0:
            seed = mix(self.config.seed, trainer.global_rank)
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)


class EpochLines(Callback):
    """Log one line after every validation."""

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Log the errors measured last."""
        if not trainer.is_global_zero:
            return
        point = module.curve[-1]
        errors = f"validation error {_percent(point['val_error_running'])}"
        if differs(module.model):
            errors = f"validation error with statistics: {'  '.join(f'{n} {_percent(point[key])}' for n, key in MODES)}"
        log.info(
            f"epoch {point['epoch']}{_of(trainer.max_epochs)}  step {point['step']}  "
            f"train loss {point['train_loss']:.4f}  train error {_percent(point['train_error'])}  {errors}"
        )


class Divergence(Callback):
    """End the training of a model whose loss is no longer finite."""

    takes_slices = True

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Check the loss, every `CHECK_EVERY` steps."""
        check = (batch_idx + 1) * module.at_once % CHECK_EVERY == 0 or trainer.is_last_batch
        if check and not trainer.strategy.reduce_boolean_decision(not module.lost(), all=True):
            module.diverged = True
            trainer.should_stop = True


class Recorder(Callback):
    """Write `result.json` when the training ends, from the process that trains.

    Args:
        folder: The cell's.
        record: The entries that are known before the cell trains.
        shapes: The shape of each norm's input, from `trace_shapes`.
        lr: The peak learning rate.
        started: `time.perf_counter()` when the cell began.
        probes: Callbacks whose `summary()` joins the metrics and whose `recording()` goes into `recording.npz`.
    """

    def __init__(
        self,
        folder: Path,
        record: dict[str, Any],
        shapes: Shapes,
        lr: float,
        started: float,
        probes: Sequence[Any] = (),
    ) -> None:
        self.folder, self.record, self.shapes, self.lr, self.started = folder, record, shapes, lr, started
        self.probes = probes
        self.training_s, self.pruned = 0.0, False

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start the clock of a training that resumes within an epoch."""
        self._start_clock()

    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        """Start the clock."""
        self._start_clock()

    def _start_clock(self) -> None:
        self._epoch_started = time.perf_counter()
        self._timed = False

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Stop the clock."""
        self._stop_clock()

    def _stop_clock(self) -> None:
        # Validation runs within the training epoch, after its last batch: whichever comes first ends the training part.
        if not self._timed:
            self.training_s += time.perf_counter() - self._epoch_started
            self._timed = True

    def state_dict(self) -> dict[str, float]:
        """Return the time so far, for a training that is resumed."""
        now = time.perf_counter()
        return {
            "wall_s": now - self.started,
            "training_s": self.training_s + (not self._timed) * (now - self._epoch_started),
        }

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Continue the time of the interrupted training."""
        self.started -= state_dict["wall_s"]
        self.training_s = state_dict["training_s"]

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Write the curve, which a cell that is killed later leaves, and end a cell that a search has told to."""
        if trainer.is_global_zero:
            write_atomic(self.folder / CURVE, json.dumps(module.curve))
        self.pruned = trainer.strategy.reduce_boolean_decision((self.folder / STOP).exists(), all=False)
        trainer.should_stop = trainer.should_stop or self.pruned

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        """Write the record."""
        if not module.ended:
            raise UserError("trainer: its options end the training before the first step, and nothing was measured")
        values, normalization_batch = values_per_statistic(module.model, self.shapes)
        if not trainer.is_global_zero:
            return
        if module.device.type == "cuda":
            self.record["device"]["name"] = torch.cuda.get_device_name(module.device)
        last = dict(module.curve[-1]) if module.curve else {}
        metrics = {
            **{key: value for key, value in last.items() if key not in ("epoch", "samples", "step")},
            "steps": last.get("step", trainer.global_step),
            **counts(module.model, module.config.optimizer.trains),
        }
        arrays: dict[str, Any] = {}
        for probe in self.probes:
            metrics.update(probe.summary())
            arrays.update(probe.recording())
        reason = f"the loss was not finite by step {trainer.global_step}" if module.diverged else None
        if not module.diverged and (reason := stopped_early(trainer, int(last["epoch"]))):
            metrics["stopped_epoch"] = last["epoch"]
        self.pruned = self.pruned and reason is not None and not module.diverged
        if arrays:
            write_recording(self.folder, arrays)
        now = time.perf_counter()
        self.record["time"] |= {
            "wall_s": now - self.started,
            "ms_per_step": 1000 * self.training_s / max(1, trainer.global_step),
        }
        result = CellResult(
            **self.record,
            status="diverged" if module.diverged else "pruned" if self.pruned else "ok",
            reason=reason,
            world_size=world_size_here(),
            metrics={**metrics, "lr": self.lr, "num_classes": module.num_classes},
            curve=module.curve,
            values_per_statistic=values,
            normalization_batch=normalization_batch,
        )
        write_result(self.folder, result)
        for name in (CURVE, STOP, CHECKPOINT):
            (self.folder / name).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove what a finished cell leaves when it is killed just after it has written its record."""
    for name in (CURVE, STOP, CHECKPOINT):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    shutil.rmtree(folder / AGENT, ignore_errors=True)


def curve_so_far(folder: Path) -> list[dict[str, Any]]:
    """Read the points of the curve that a cell without a record has written."""
    try:
        points = json.loads(read_file(folder / CURVE))
    except (OSError, ValueError, RecursionError):
        return []
    return [point for point in points if isinstance(point, dict)] if isinstance(points, list) else []


def error_so_far(folder: Path) -> str:
    """Return the last error of a running cell, as text."""
    error = next((point.get("val_error_running") for point in reversed(curve_so_far(folder))), None)
    return f"{error:.1f} %" if isinstance(error, (int, float)) else "-"


def _of(epochs: int | None) -> str:
    return f"/{epochs}" if epochs is not None and epochs > 0 else ""  # without an end the steps end it


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"
