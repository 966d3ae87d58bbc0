"""What makes the steps of small batches cheap: many in one call of Lightning's loop, and convolutions without oneDNN.

Lightning's hooks cost a third of a small step. oneDNN prepares every convolution anew, forward and backward, and then
computes it fast; what torch does without it begins at once and computes each sample by itself. Which of them is used
follows from shapes alone, and not from a measurement, so that one seed gives one result.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.backends import mkldnn

from normzoo.data.in_memory import InMemory

# Steps between looks at what the processes must agree on, such as a finite loss: a look makes a GPU wait.
CHECK_EVERY = 50

SLICE_BYTES = 2**25  # of images that are handed out at once, at most
_DATA_HOOKS = (
    *("loader", "train_dataloader"),
    *("transfer_batch_to_device", "on_before_batch_transfer", "on_after_batch_transfer"),
)
_BATCH_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_optimizer_step"),
    *("on_before_backward", "on_after_backward"),
)

# About where the two ways take the same time, the samples times the multiply-adds of a convolution and of its start,
# `START`, come to `LIMIT`; `python -m scripts.bench_sweep --only convolutions` measures how well that holds.
LIMIT, START = 2.5e6, 2.5e5


def batches_at_once(trainer: Any) -> int:
    """Return how many batches one `training_step` may take: `CHECK_EVERY`, or 1 where anything sees single ones.

    A callback with hooks of a batch states that it expects slices of several by a true attribute `takes_slices`.
    """
    data = trainer.datamodule
    plain = (
        isinstance(trainer.strategy, SingleDeviceStrategy)
        and isinstance(trainer.profiler, PassThroughProfiler)
        and trainer.precision == "32-true"
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and not trainer.overfit_batches
        and trainer.max_steps == -1
        and is_whole(trainer.limit_train_batches)
        and is_whole(trainer.val_check_interval)
    )
    others = [one for one in trainer.callbacks if not getattr(one, "takes_slices", False)]
    single = any(_overrides(one, Callback, _BATCH_HOOKS) for one in others)
    if not plain or single or not isinstance(data, InMemory) or _overrides(data, InMemory, _DATA_HOOKS):
        return 1
    image = data.tensors("train")[0][0]
    batch_bytes = image.numel() * image.element_size() * data.batch_size
    return next(n for n in (CHECK_EVERY, 25, 10, 5, 1) if n == 1 or n * batch_bytes <= SLICE_BYTES)


def is_whole(limit: int | float) -> bool:
    """Return whether one of Lightning's limits is the whole epoch: 1.0, while 1 is a single batch."""
    return isinstance(limit, float) and limit == 1.0


def _overrides(one: object, base: type, hooks: tuple[str, ...]) -> bool:
    """Return whether the object has a hook of its own, of its class or set on it."""
    return any(getattr(getattr(one, hook), "__func__", None) is not getattr(base, hook) for hook in hooks)


class WithoutOneDNN:
    """A context in which convolutions on a CPU do without oneDNN if they are `small`; without effect otherwise."""

    def __init__(self, *, small: bool) -> None:
        self.small = small and not torch.backends.flags_frozen()

    def __enter__(self) -> None:
        if self.small:
            self._before = mkldnn.enabled
            mkldnn.enabled = False  # type: ignore[assignment]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.small:
            mkldnn.enabled = self._before


def convolving(batch: int, multiply_adds: Sequence[float]) -> WithoutOneDNN:
    """Return the context for float32 batches of so many samples, through a model of these convolutions and back."""
    if not multiply_adds:
        return WithoutOneDNN(small=False)
    return WithoutOneDNN(small=batch * (sum(multiply_adds) / len(multiply_adds) + START) < LIMIT)
