"""Bases of the callbacks: what they give to a cell, and when those measure that do so at regular steps."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from normzoo.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Callback as Callback
else:
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:  # the functions of the probes need only torch

        class Callback:
            """Stand-in for Lightning's class."""


class Probe(Callback):
    """A callback with numbers for the cell's metrics and arrays for its recording."""

    kept: tuple[str, ...] = ()  # attributes that a checkpoint saves

    def recording(self) -> dict[str, Any]:
        """Return the arrays."""
        return {}

    def summary(self) -> dict[str, float | None]:
        """Return the numbers."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in self.kept:
            setattr(self, name, state_dict[name])


class StepProbe(Probe):
    """Measure before every `every`-th optimizer step, on the batch of that step, and record one row each time.

    The model inside the LightningModule (its attribute `model`, or else itself) is measured in training mode. In
    data-parallel training all processes measure, and the first one records. A resumed training keeps its rows and
    names. The time of measuring counts as training time.

    Args:
        every: Optimizer steps between measurements; the first is before the first step.
    """

    prefix = ""
    kept: tuple[str, ...] = ("rows", "names")

    def __init__(self, every: int) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise UserError(f"{type(self).__name__}: every={every!r} must be a positive integer")
        self.every = every
        self.rows: list[dict[str, Tensor]] = []
        self.names: dict[str, list[Any]] = {}  # of what the columns hold, recorded with them

    def measure(self, trainer: Any, model: nn.Module, batch: Any) -> Mapping[str, Any] | None:
        """Return one row, numbers or tensors by name; None to skip."""
        raise NotImplementedError

    def due(self, trainer: Any, batch_idx: int) -> bool:
        """Return whether a measured step starts with this batch; with accumulation a step has several batches."""
        return trainer.global_step % self.every == 0 and batch_idx % trainer.accumulate_grad_batches == 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Measure if the step is due."""
        if self.due(trainer, batch_idx):
            with trainer.precision_plugin.forward_context():
                row = self.measure(trainer, inner_model(module), batch)
            if row is not None:
                self.keep(trainer.global_step, row)

    def keep(self, step: int, row: Mapping[str, Any]) -> None:
        """Append a row, as tensors on the CPU."""
        values = {"step": step, **row}
        self.rows.append({name: torch.as_tensor(value).detach().cpu().clone() for name, value in values.items()})

    def column(self, name: str) -> Tensor:
        """Return one value of all rows, Shape (rows, *); an empty tensor without rows."""
        return torch.stack([row[name] for row in self.rows]) if self.rows else torch.empty(0)

    def recording(self) -> dict[str, Any]:
        """Return columns and names, each as `<prefix>_<name>`."""
        columns = {name: self.column(name).numpy() for name in (self.rows[0] if self.rows else ())}
        return {f"{self.prefix}_{name}": values for name, values in {**columns, **self.names}.items()}


def inner_model(module: Any) -> nn.Module:
    """Return the model that a LightningModule trains."""
    model = getattr(module, "model", None)
    return model if isinstance(model, nn.Module) else module


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Set the mode of the model within the context, and restore that of each layer."""
    modes = {layer: layer.training for layer in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def reduce_column(reduce: Callable[[Tensor], Tensor], values: Tensor) -> float | None:
    """Reduce a column to one number; None if it is empty."""
    return float(reduce(values.double())) if values.numel() else None


def median(values: Tensor) -> Tensor:
    """Return the median, the mean of both middle values if there are two; nan if any value is nan."""
    return values.quantile(0.5)


def training_batch_size(trainer: Any) -> int:
    """Return the number of samples in a training batch of one process."""
    own = getattr(trainer.datamodule, "batch_size", None)
    return int(own or trainer.train_dataloader.batch_size)


def probe_batches(trainer: Any, samples: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the first training images and labels of this process, on the model's device; the same at every step.

    Full batches of `samples` images in total, rounded up. They come from the datamodule's `loader`, as in normzoo.data,
    or else, in order, from the data set behind the trainer's loader.

    Raises:
        UserError: If the training set is smaller than one batch, or cannot be indexed.
    """
    device, convert = trainer.strategy.root_device, trainer.precision_plugin.convert_input
    with torch.random.fork_rng(devices=[]):  # a loader with workers draws a seed
        own = getattr(trainer.datamodule, "loader", None)
        loader = own("train", batch_size, drop_last=True) if own else _in_order(trainer.train_dataloader, batch_size)
        return [(convert(x.to(device)), y.to(device)) for x, y in islice(loader, math.ceil(samples / batch_size))]


def _in_order(loader: Any, batch_size: int) -> DataLoader[Any]:
    """Return a loader over the same data in order; iterating over the loader itself could change its next batches."""
    data: Any = getattr(loader, "dataset", None)
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise UserError(f"a probe of training images needs a DataLoader over a map-style data set, got {loader!r}")
    if len(data) < batch_size:
        raise UserError(f"a probe needs {batch_size} training images, but there are only {len(data)}")
    return DataLoader(data, batch_size, collate_fn=loader.collate_fn)
