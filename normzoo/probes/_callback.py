"""What the probes that measure every so many steps share: when, and the rows they keep."""

import math
from collections.abc import Callable, Mapping
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
    except ModuleNotFoundError:  # the functions of the probes need torch alone

        class Callback:
            """Stands in for Lightning's, which is not installed."""


class StepProbe(Callback):
    """Measures before every `every`-th optimizer step, on the batch of that step, and keeps one row a time.

    What is measured is the model inside the LightningModule (its attribute `model`, or else itself) as it stands, in
    training mode. All processes of data-parallel training measure; the record is that of the first. A continued
    training keeps the rows, by `state_dict`.

    The time it takes counts as time of the training.

    Args:
        every: Optimizer steps from one measurement to the next; the first is before the first step.
    """

    prefix = ""

    def __init__(self, every: int) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise UserError(f"{type(self).__name__}: every={every!r} must be a whole number of steps, 1 or more")
        self.every = every
        self.rows: list[dict[str, Tensor]] = []

    def measure(self, trainer: Any, model: nn.Module, batch: Any) -> Mapping[str, Any] | None:
        """One row: numbers or tensors by name; None for none."""
        raise NotImplementedError

    def due(self, trainer: Any, batch_idx: int) -> bool:
        """Whether this is the first batch of a step that is measured; a step may accumulate several batches."""
        return trainer.global_step % self.every == 0 and batch_idx % trainer.accumulate_grad_batches == 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.due(trainer, batch_idx):
            with trainer.precision_plugin.forward_context():
                row = self.measure(trainer, inner(module), batch)
            if row is not None:
                self.keep(trainer.global_step, row)

    def keep(self, step: int, row: Mapping[str, Any]) -> None:
        """Add a row, as tensors on the CPU."""
        values = {"step": step, **row}
        self.rows.append({name: torch.as_tensor(value).detach().cpu().clone() for name, value in values.items()})

    def column(self, name: str) -> Tensor:
        """What all rows have under this name, (rows, *); no rows give an empty tensor."""
        return torch.stack([row[name] for row in self.rows]) if self.rows else torch.empty(0)

    def recording(self) -> dict[str, Any]:
        """The columns as arrays, each under the probe's prefix and its name."""
        names = self.rows[0] if self.rows else ()
        return {f"{self.prefix}_{name}": self.column(name).numpy() for name in names}

    def summary(self) -> dict[str, float | None]:
        """What goes into the cell's metrics."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


def inner(module: Any) -> nn.Module:
    """The model that a LightningModule trains."""
    model = getattr(module, "model", None)
    return model if isinstance(model, nn.Module) else module


def over_rows(reduce: Callable[[Tensor], Tensor], values: Tensor) -> float | None:
    """One number out of a column; None where nothing was measured."""
    return float(reduce(values.double())) if values.numel() else None


def median(values: Tensor) -> Tensor:
    """The middle value, or the mean of both; nan if there is one among them."""
    return values.quantile(0.5)


def training_batch_size(trainer: Any) -> int:
    """How many samples a training batch of one process has."""
    own = getattr(trainer.datamodule, "batch_size", None)
    return int(own or trainer.train_dataloader.batch_size)


def probe_batches(trainer: Any, samples: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """The first training images and labels of this process, on the device of the model: the same at every step.

    Whole batches, of `samples` images in all, rounded up. They come from the `loader` of the datamodule, as those of
    normzoo.data have it, or else from the data set behind the trainer's own loader, in its order.

    Raises:
        UserError: If one batch is more than the training images, or these cannot be had by their numbers.
    """
    device, convert = trainer.strategy.root_device, trainer.precision_plugin.convert_input
    with torch.random.fork_rng(devices=[]):  # a loader with workers draws a seed for them
        own = getattr(trainer.datamodule, "loader", None)
        loader = own("train", batch_size, drop_last=True) if own else _in_order(trainer.train_dataloader, batch_size)
        return [(convert(x.to(device)), y.to(device)) for x, y in islice(loader, math.ceil(samples / batch_size))]


def _in_order(loader: Any, batch_size: int) -> DataLoader[Any]:
    """The loader's data in their own order: to iterate over the loader itself could change what it gives next."""
    data: Any = getattr(loader, "dataset", None)
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise UserError(f"a probe on the first training images needs a DataLoader over a data set, not {loader!r}")
    if len(data) < batch_size:
        raise UserError(f"a probe measures on {batch_size} training images at once, and there are {len(data)}")
    return DataLoader(data, batch_size, collate_fn=loader.collate_fn)
