"""The LightningModule that trains one classifier and measures it under three kinds of statistics."""

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

from normzoo.probes.train_eval_gap import (
    can_recalibrate,
    differs,
    predict,
    with_batch_statistics,
    with_population_statistics,
)
from normzoo.results import decisive
from normzoo.training.at_once import CHECK_EVERY, batches_at_once
from normzoo.training.config import CellConfig
from normzoo.training.convolutions import Convolving
from normzoo.training.instantiate import build_optimizer, schedule
from normzoo.training.trainable import trained


class Classifier(LightningModule):
    """A classifier trained by cross-entropy; after every validation it appends one point to its `curve`.

    Args:
        model: Maps images (N, C, H, W) to logits (N, num_classes).
        num_classes: Of the data set.
        config: The resolved configuration: the optimizer and what to evaluate on.
        convolving: The context in which batches of its `batch_size_per_device` are convolved.
    """

    def __init__(self, model: nn.Module, num_classes: int, config: CellConfig, convolving: Convolving) -> None:
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
        self.left_out = torch.zeros(())  # steps of this epoch that a gradient scaler has left out
        self.overflows = torch.zeros(())  # such steps in a row
        self.val_loss_sum = torch.zeros(())
        self._steps_summed = 0
        self._val_samples = 0
        self.at_once = 1

    def setup(self, stage: str) -> None:
        self._take(batches_at_once(self.trainer))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["batches_at_once"] = self.at_once

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._take(checkpoint.get("batches_at_once", 1))  # in which Lightning has counted

    def _take(self, at_once: int) -> None:
        """Make each `training_step` one of so many batches and optimizer steps."""
        self.at_once, self.automatic_optimization = at_once, at_once == 1
        self.trainer.datamodule.at_once = at_once  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.config, trained(self.model))
        total_steps = int(self.trainer.estimated_stepping_batches)
        if self.at_once > 1:  # Lightning has counted slices
            loader: Any = self.trainer.train_dataloader
            total_steps = total_steps // len(loader) * loader.batches
        factor = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(self.config.optimizer, total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self._steps_summed = 0
        self.loss_sum, self.left_out = (torch.zeros((), device=self.device) for _ in range(2))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
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
        self.backward(loss)  # `manual_backward` scales it, which float32 does not need, and calls hooks that nobody has
        return loss

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        self._tell_scale(scaled=True)
        with self.convolving:
            loss = F.cross_entropy(self.model(x), y)
        self._sum_up(loss.detach())
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with self.convolving:
            super().backward(loss, *args, **kwargs)
        self._tell_scale(scaled=False)  # probes run backwards of their own

    def _sum_up(self, loss: Tensor) -> None:
        self._steps_summed += 1
        if not self._scales():
            self.loss_sum.add_(loss)
            return
        finite = loss.isfinite()
        self.overflows = (self.overflows + 1) * ~finite
        self.left_out = self.left_out + ~finite
        self.loss_sum.add_(torch.where(finite, loss, 0.0))

    def _scales(self) -> bool:
        """Whether a gradient scaler leaves out steps that overflow, and tries the next at a smaller scale."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def _tell_scale(self, *, scaled: bool) -> None:
        """Tell the scale of the loss to the layers that average gradients."""
        layers = [layer for layer in self.model.modules() if hasattr(layer, "loss_scale")] if self._scales() else []
        if layers:
            scaler: Any = self.trainer.precision_plugin.scaler  # type: ignore[attr-defined]
            scale = scaler.get_scale() if scaled else 1.0
            for layer in layers:
                layer.loss_scale = scale  # type: ignore[assignment]

    def lost(self) -> bool:
        """Whether the loss will not be finite again."""
        return int(self.overflows) >= CHECK_EVERY if self._scales() else not bool(self.loss_sum.isfinite())

    def progress(self) -> dict[str, Any]:
        """What a continued training needs to know besides weights and buffers."""
        sums = {name: getattr(self, name).cpu() for name in ("loss_sum", "left_out", "overflows")}
        return {"sums": sums, "steps_summed": self._steps_summed, "curve": list(self.curve)}

    def resume(self, progress: dict[str, Any]) -> None:
        """Go on from `progress()`."""
        for name, value in progress["sums"].items():
            setattr(self, name, value.to(self.device))
        self._steps_summed, self.curve = progress["steps_summed"], list(progress["curve"])

    def on_train_end(self) -> None:
        """Measure the net as it is in the end, whenever the trainer's options have had it validated last."""
        self.ended = True
        if self.curve and self.curve[-1]["step"] == self.global_step:
            return
        self.trainer.limit_val_batches = self.trainer.limit_val_batches or 1.0  # none while it trained, but the end is
        self.trainer.validating = True
        self.trainer.fit_loop.epoch_loop.val_loop.run()
        self.trainer.training = True

    def on_validation_epoch_start(self) -> None:
        self.accuracy.reset()
        self.val_loss_sum = torch.zeros((), device=self.device)
        self._val_samples = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self.model(x)
        self.accuracy.update(logits.argmax(dim=1), y)
        self.val_loss_sum.add_(F.cross_entropy(logits, y, reduction="sum"))
        self._val_samples += len(y)

    def on_validation_epoch_end(self) -> None:
        running = self._error()
        evaluation = self.config.evaluation
        batches = self.global_step if self.at_once > 1 else self.trainer.fit_loop.total_batch_idx + 1
        point: dict[str, float | int | None] = {
            "epoch": self.current_epoch + (not self.ended),
            "step": self.global_step,
            "samples": batches * self.config.batch_over_devices,
            "val_error_running": running,
            **self._gap(running, evaluation["population_samples"]),
            "train_error": self._error_over(self.model, self._batches("train", None, evaluation["train_samples"])),
            "train_loss": self._mean(self.loss_sum, self._steps_summed - int(self.left_out)),
            "val_loss": self._mean(self.val_loss_sum, self._val_samples),
        }
        self.curve.append(point)
        if self.trainer.loggers:
            errors = {key: value for key, value in point.items() if isinstance(value, float)}
            # Lightning's own axis counts slices.
            axis = {"epoch": float(self.current_epoch), "step": float(self.global_step - (not self.ended))}
            self.log_dict(errors | axis, rank_zero_only=True)

    def _gap(self, running: float | None, population_samples: int | None) -> dict[str, float | None]:
        """The error with recomputed statistics and with those of the current batch, where they differ."""
        if not differs(self.model):
            return {"val_error_population": running, "val_error_batch": running}
        size = self.config.batch_size_per_device
        population = None
        if can_recalibrate(self.model):
            inputs = (x.to(self.device) for x, _ in self._batches("train", size, population_samples))
            with self.trainer.precision_plugin.forward_context(), self.convolving:
                population = with_population_statistics(self.model, inputs)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        fits = size * self.trainer.world_size <= data.num_val
        with self.convolving:
            batch = self._error_over(with_batch_statistics(self.model), self._batches("val", size)) if fits else None
        return {
            "val_error_population": self._error_over(population, self._batches("val", None)) if population else None,
            "val_error_batch": batch,
        }

    def _batches(self, split: str, size: int | None, samples: int | None = None) -> Iterable[tuple[Tensor, Tensor]]:
        """This process's share of a split, in batches of exactly `size`, or of any for None; about `samples` in all."""
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
            predicted, true = predict(model, batches)
        self.accuracy.reset()
        self.accuracy.update(predicted, true)
        return self._error()

    def _error(self) -> float:
        """In percent, over all processes, of what `accuracy` has seen."""
        return round(100.0 * (1.0 - float(self.accuracy.compute())), 4)  # the metric is float32

    def _mean(self, total: Tensor, count: int) -> float:
        return float(self._sum(total) / self._sum(torch.tensor(float(count), device=self.device)))

    def _sum(self, value: Tensor) -> Tensor:
        """Over all processes."""
        if self.trainer.world_size == 1:
            return value
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total
