"""What watches a cell while it trains: its record, and lines on the console."""

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
from lightning.pytorch import Callback, LightningModule, Trainer

from normzoo.data.loader import mix
from normzoo.errors import UserError
from normzoo.probes.train_eval_gap import differs
from normzoo.recording import write_recording
from normzoo.results import CellResult, read_file, write_atomic, write_result
from normzoo.training.at_once import CHECK_EVERY
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.config import CellConfig
from normzoo.training.distributed import AGENT, under_torchrun, world_size_here
from normzoo.training.shape_trace import Shapes, values_per_statistic
from normzoo.training.trainable import counts

CURVE = "curve.json"
log = logging.getLogger("normzoo")

MODES = (("running", "val_error_running"), ("recomputed", "val_error_population"), ("batch", "val_error_batch"))


class RankCheck(Callback):
    """In every process, before it trains: there are as many as the configuration says.

    Their random numbers are their own. They have been seeded alike until then, for the same weights in all of them; but
    dropout would leave out the same units in each.
    """

    def __init__(self, config: CellConfig) -> None:
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._sigterm = signal.getsignal(signal.SIGTERM)  # Lightning has not yet set its own
        actual, asked = world_size_here(), self.config.world_size
        if actual != asked:
            nodes = self.config.trainer.num_nodes
            raise RuntimeError(
                f"{actual} processes train together, but trainer.devices={self.config.trainer.devices} and "
                f"trainer.num_nodes={nodes} ask for {asked}; batch sizes and learning rates would not be those recorded"
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        ends = under_torchrun() or self._sigterm is signal.SIG_DFL
        if ends and threading.current_thread() is threading.main_thread():
            # Lightning's own handler would wait for the other ranks, which may be gone or stuck, and ends the process
            # as if all were well.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if trainer.global_rank > 0:
            seed = mix(self.config.seed, trainer.global_rank)
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)


class EpochLines(Callback):
    """Says after every validation, in one line, how far the cell is."""

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        point: dict[str, Any] = module.curve[-1]  # type: ignore[index, assignment]
        errors = f"validation error {_percent(point['val_error_running'])}"
        if differs(module.model):  # type: ignore[arg-type]
            errors = f"validation error with statistics: {'  '.join(f'{n} {_percent(point[key])}' for n, key in MODES)}"
        log.info(
            f"epoch {point['epoch']}{_of(trainer.max_epochs)}  step {point['step']}  "
            f"train loss {point['train_loss']:.4f}  train error {_percent(point['train_error'])}  {errors}"
        )


class Divergence(Callback):
    """Ends the training of a model whose loss has ceased to be finite."""

    takes_slices = True

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        at_once: int = module.at_once  # type: ignore[assignment]
        if (batch_idx + 1) * at_once % CHECK_EVERY == 0 or trainer.is_last_batch:
            lost: bool = module.lost()  # type: ignore[operator]
            if not trainer.strategy.reduce_boolean_decision(not lost, all=True):
                module.diverged = True  # type: ignore[assignment]
                trainer.should_stop = True


class Recorder(Callback):
    """Writes `result.json` when the training ends.

    It writes from inside the training process, because with several devices that is a process of its own.

    Args:
        folder: The cell's.
        record: What is known of the cell beforehand.
        shapes: Of the input of each norm layer, from `passage_of`.
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
        self.training_s = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._start_clock()  # for a training that goes on within an epoch

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._start_clock()

    def _start_clock(self) -> None:
        self._epoch_started = time.perf_counter()
        self._timed = False

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop_clock()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop_clock()

    def _stop_clock(self) -> None:
        # Validation runs inside the training epoch, after its last batch: whichever comes first ends the training part.
        if not self._timed:
            self.training_s += time.perf_counter() - self._epoch_started
            self._timed = True

    def state_dict(self) -> dict[str, float]:
        """The time it has taken so far, for a training that is continued."""
        now = time.perf_counter()
        return {
            "wall_s": now - self.started,
            "training_s": self.training_s + (not self._timed) * (now - self._epoch_started),
        }

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.started -= state_dict["wall_s"]
        self.training_s = state_dict["training_s"]

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:  # so that a cell that is killed later leaves the curve it had
            write_atomic(self.folder / CURVE, json.dumps(module.curve))

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not module.ended:
            raise UserError("trainer: its options end the training before the first step, and nothing was measured")
        values, normalization_batch = values_per_statistic(module.model, self.shapes)  # type: ignore[arg-type]
        if trainer.is_global_zero:
            if module.device.type == "cuda":
                self.record["device"]["name"] = torch.cuda.get_device_name(module.device)
            curve: Any = module.curve
            metrics = {
                key: value for key, value in (curve[-1] if curve else {}).items() if key not in ("epoch", "samples")
            }
            metrics["steps"] = metrics.pop("step", trainer.global_step)
            metrics |= counts(module.model, module.config.optimizer.trains)  # type: ignore[arg-type, union-attr]
            arrays: dict[str, Any] = {}
            for probe in self.probes:
                metrics.update(probe.summary())
                arrays.update(probe.recording())
            if arrays:
                write_recording(self.folder, arrays)
            result = CellResult(
                **self.record,
                status="diverged" if module.diverged else "ok",
                reason=f"the loss was not finite by step {trainer.global_step}" if module.diverged else None,
                world_size=world_size_here(),
                metrics={**metrics, "lr": self.lr, "num_classes": module.num_classes},  # type: ignore[dict-item]
                curve=curve,
                values_per_statistic=values,
                normalization_batch=normalization_batch,
            )
            result.time["wall_s"] = time.perf_counter() - self.started
            result.time["ms_per_step"] = 1000 * self.training_s / max(1, trainer.global_step)
            write_result(self.folder, result)
            for name in (CURVE, CHECKPOINT):
                (self.folder / name).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Take away what a finished cell leaves when it is killed just after it has written its record."""
    for name in (CURVE, CHECKPOINT):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    shutil.rmtree(folder / AGENT, ignore_errors=True)


def curve_so_far(folder: Path) -> list[dict[str, Any]]:
    """The points that a cell without a record has written of its curve."""
    try:
        points = json.loads(read_file(folder / CURVE))
    except (OSError, ValueError, RecursionError):
        return []
    return [point for point in points if isinstance(point, dict)] if isinstance(points, list) else []


def error_so_far(folder: Path) -> str:
    """The last error that a running cell has reported, in words."""
    error = next((point.get("val_error_running") for point in reversed(curve_so_far(folder))), None)
    return f"{error:.1f} %" if isinstance(error, (int, float)) else "-"


def _of(epochs: int | None) -> str:
    return f"/{epochs}" if epochs is not None and epochs > 0 else ""  # without an end the steps end it


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"
