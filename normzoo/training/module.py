"""The LightningModule that trains one classifier and measures it under three kinds of statistics."""

import contextlib
import itertools
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from normzoo.identity import decisive
from normzoo.probes import train_eval_gap
from normzoo.surgery.report import SurgeryError
from normzoo.training.config import CellConfig
from normzoo.training.instantiate import build_optimizer, schedule
from normzoo.training.saved import NET
from normzoo.training.small_batches import CHECK_EVERY, WithoutOneDNN, batches_at_once
from normzoo.training.trainable import trained

# What a callback may monitor, besides epoch and step.
MEASURED = ("val_error_running", "val_error_population", "val_error_batch", "train_error", "train_loss", "val_loss")


class Classifier(LightningModule):
    """Train a classifier by cross-entropy; append a point to its `curve` after every validation.

    Args:
        model: Maps images (N, C, H, W) to logits (N, num_classes).
        num_classes: The number of classes.
        config: The cell's.
        convolving: The context in which batches of its `batch_size_per_device` are convolved.
    """

    def __init__(self, model: nn.Module, num_classes: int, config: CellConfig, convolving: WithoutOneDNN) -> None:
        super().__init__()
        self.model = model
        self.convolving = convolving
        self.config = config
        self.save_hyperparameters(decisive(config.plain))  # for the loggers, which show runs by them
        self.num_classes = num_classes
        self.accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.curve: list[dict[str, float | int | None]] = []
        self.diverged = False
        self.ended = False
        # No buffers, which data-parallel training would overwrite by those of the first process.
        self.loss_sum = torch.zeros(())
        self.left_out = torch.zeros(())  # steps of this epoch that a gradient scaler has skipped
        self.overflows = torch.zeros(())  # such steps in a row
        self._steps_summed = 0
        self.at_once = 1

    def setup(self, stage: str) -> None:
        """Choose how many batches a `training_step` takes."""
        self._take(batches_at_once(self.trainer))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of batches in a `training_step`, and what `normzoo.load` builds the net from."""
        checkpoint["batches_at_once"] = self.at_once
        shape = list(self.trainer.datamodule.image_shape)  # type: ignore[attr-defined]
        checkpoint[NET] = {"cell": self.config.identity, "image_shape": shape, "num_classes": self.num_classes}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it: Lightning has counted in it."""
        if "optimizer_states" in checkpoint:  # and not the net alone, which is read without a trainer
            self._take(checkpoint.get("batches_at_once", 1))

    def _take(self, at_once: int) -> None:
        """Make each `training_step` take so many batches and optimizer steps."""
        self.at_once, self.automatic_optimization = at_once, at_once == 1
        self.trainer.datamodule.at_once = at_once  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.model(x)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule."""
        optimizer = build_optimizer(self.config, trained(self.model))
        total_steps = int(self.trainer.estimated_stepping_batches)
        if self.at_once > 1:  # Lightning has counted slices
            loader: Any = self.trainer.train_dataloader
            total_steps = total_steps // len(loader) * loader.batches
        factor = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(self.config.optimizer, total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Reset the sums over an epoch."""
        self._steps_summed = 0
        self.loss_sum, self.left_out = (torch.zeros((), device=self.device) for _ in range(2))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Return the loss; or, by manual optimization, make the optimizer steps of all batches in the slice."""
        if self.automatic_optimization:
            return self._loss(*batch)
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        size = self.config.batch_size_per_device
        for x, y in zip(*(part.split(size) for part in batch), strict=True):
            optimizer.step(partial(self._gradients, optimizer, x, y))
            schedule.step()
        return None

    def _gradients(self, optimizer: Any, x: Tensor, y: Tensor) -> Tensor:
        loss = self._loss(x, y)
        optimizer.zero_grad()
        self.backward(loss)  # not `manual_backward`, whose scaling and hooks nothing needs here
        return loss

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        self._set_scale(scaled=True)
        with self.convolving:
            loss = F.cross_entropy(self.model(x), y)
        self._steps_summed += 1
        if self._scaler is None:
            self.loss_sum.add_(loss.detach())
            return loss
        finite = loss.detach().isfinite()
        self.overflows = (self.overflows + 1) * ~finite
        self.left_out = self.left_out + ~finite
        self.loss_sum.add_(torch.where(finite, loss.detach(), 0.0))
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients, with the convolutions of the forward."""
        with self.convolving:
            super().backward(loss, *args, **kwargs)
        self._set_scale(scaled=False)  # probes run backwards of their own

    @property
    def _scaler(self) -> Any:
        """The gradient scaler, which skips steps that overflow and retries at a smaller scale; None without one."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _set_scale(self, *, scaled: bool) -> None:
        """Set the scale of the loss in the layers that average gradients."""
        layers = [layer for layer in self.model.modules() if hasattr(layer, "loss_scale")] if self._scaler else []
        scale = self._scaler.get_scale() if layers and scaled else 1.0
        for layer in layers:
            layer.loss_scale = scale  # type: ignore[assignment]

    def lost(self) -> bool:
        """Return whether the loss will not be finite again."""
        return int(self.overflows) >= CHECK_EVERY if self._scaler is not None else not bool(self.loss_sum.isfinite())

    def progress(self) -> dict[str, Any]:
        """Return what a resumed training needs besides weights and buffers."""
        sums = {name: getattr(self, name).cpu() for name in ("loss_sum", "left_out", "overflows")}
        return {"sums": sums, "steps_summed": self._steps_summed, "curve": list(self.curve)}

    def resume(self, progress: dict[str, Any]) -> None:
        """Restore `progress()`."""
        for name, value in progress["sums"].items():
            setattr(self, name, value.to(self.device))
        self._steps_summed, self.curve = progress["steps_summed"], list(progress["curve"])

    def on_train_end(self) -> None:
        """Measure the trained net, whenever the trainer's options have it validated last."""
        self.ended = True
        if self.curve and self.curve[-1]["step"] == self.global_step:
            return
        self.trainer.limit_val_batches = self.trainer.limit_val_batches or 1.0  # also if none while it trained
        self.trainer.validating = True
        self.trainer.fit_loop.epoch_loop.val_loop.run()
        self.trainer.training = True

    def on_validation_epoch_start(self) -> None:
        """Reset the sums over a validation."""
        self.accuracy.reset()
        self.val_loss_sum = torch.zeros((), device=self.device)
        self._val_samples = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the error and the loss."""
        x, y = batch
        logits = self.model(x)
        self.accuracy.update(logits.argmax(dim=1), y)
        self.val_loss_sum.add_(F.cross_entropy(logits, y, reduction="sum"))
        self._val_samples += len(y)

    def measure(self) -> None:
        """Append a point to the curve."""
        running = self._error()
        train = self._batches("train", None, self.config.train_samples)
        batches = self.global_step if self.at_once > 1 else self.trainer.fit_loop.total_batch_idx + 1
        point: dict[str, float | int | None] = {
            "epoch": self.current_epoch + (not self.ended),
            "step": self.global_step,
            "samples": batches * self.config.batch_over_devices,
            "val_error_running": running,
            **self._gap(running),
            "train_error": self._error_over(self.model, train),
            "train_loss": self._mean(self.loss_sum, self._steps_summed - int(self.left_out)),
            "val_loss": self._mean(self.val_loss_sum, self._val_samples),
        }
        self.curve.append(point)
        axis = {"epoch": float(self.current_epoch), "step": float(self.global_step - (not self.ended))}  # not in slices
        self.log_dict(axis | {key: value for key, value in point.items() if isinstance(value, float)})

    def _gap(self, running: float | None) -> dict[str, float | None]:
        """Measure the error with recomputed statistics and with those of the current batch, where they differ."""
        if not train_eval_gap.differs(self.model):
            return {"val_error_population": running, "val_error_batch": running}
        size = self.config.batch_size_per_device
        population = None
        if train_eval_gap.can_recalibrate(self.model):
            inputs = (x.to(self.device) for x, _ in self._batches("train", size, self.config.population_samples))
            no_norm_called = contextlib.suppress(SurgeryError)  # as of a head that is called in training alone
            with no_norm_called, self.trainer.precision_plugin.forward_context(), self.convolving:
                population = train_eval_gap.with_population_statistics(self.model, inputs)
        of_batch = None
        if size * self.trainer.world_size <= self.trainer.datamodule.num_val:  # type: ignore[attr-defined]
            twin = train_eval_gap.with_batch_statistics(self.model)
            with self.convolving:
                of_batch = self._error_over(twin, self._batches("val", size))
        recomputed = self._error_over(population, self._batches("val", None)) if population else None
        return {"val_error_population": recomputed, "val_error_batch": of_batch}

    def _batches(self, split: str, size: int | None, samples: int | None = None) -> Iterable[tuple[Tensor, Tensor]]:
        """Return this process's share of a split, in batches of exactly `size`, or of any for None; about `samples`."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batch_size = size or data.eval_batch_size
        loader = data.loader(split, batch_size, drop_last=size is not None)
        count = len(loader) if samples is None else math.ceil(samples / (batch_size * self.trainer.world_size))
        limit = self.trainer.limit_val_batches  # a count of validation's batches, or a fraction of them
        most = len(loader) * limit if isinstance(limit, float) else limit * data.eval_batch_size / batch_size
        convert = self.trainer.precision_plugin.convert_input
        return ((convert(x), y) for x, y in itertools.islice(loader, min(count, max(1, int(most)))))

    def _error_over(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        with self.trainer.precision_plugin.forward_context():
            predicted, true = train_eval_gap.predict(model, batches)
        self.accuracy.reset()
        self.accuracy.update(predicted, true)
        return self._error()

    def _error(self) -> float:
        """Return the error of what `accuracy` has seen, in percent, over all processes."""
        return round(100.0 * (1.0 - float(self.accuracy.compute())), 4)  # the metric is float32

    def _mean(self, total: Tensor, count: int) -> float:
        return float(self._sum(total) / self._sum(torch.tensor(float(count), device=self.device)))

    def _sum(self, value: Tensor) -> Tensor:
        """Sum over all processes."""
        return self.trainer.strategy.reduce(value.clone(), reduce_op="sum")
