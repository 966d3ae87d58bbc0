"""How many training batches one call of Lightning's loop takes: its hooks cost a third of a small step."""

from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy

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


def batches_at_once(trainer: Any) -> int:
    """Tell how many batches one `training_step` may take: `CHECK_EVERY`, or 1 where anything looks at single ones.

    A callback with hooks of a batch says that it expects slices of several by a true attribute `takes_slices`.
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
        and all(type(one) is float and one == 1 for one in (trainer.limit_train_batches, trainer.val_check_interval))
    )
    others = [one for one in trainer.callbacks if not getattr(one, "takes_slices", False)]
    single = any(_overrides(one, Callback, _BATCH_HOOKS) for one in others)
    if not plain or single or not isinstance(data, InMemory) or _overrides(data, InMemory, _DATA_HOOKS):
        return 1
    image = data.tensors("train")[0][0]
    batch_bytes = image.numel() * image.element_size() * data.batch_size
    return next(n for n in (CHECK_EVERY, 25, 10, 5, 1) if n == 1 or n * batch_bytes <= SLICE_BYTES)


def _overrides(one: object, base: type, hooks: tuple[str, ...]) -> bool:
    """Whether the object has a hook of its own, of its class or set on it."""
    return any(getattr(getattr(one, hook), "__func__", None) is not getattr(base, hook) for hook in hooks)
