"""Running statistics: the layers that hold them, and three rules to move them by one equation."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from normzoo.norms._layer import AffineNorm
from normzoo.norms._recompute import is_recomputed
from normzoo.norms._refuse import describe


class RunningNorm(AffineNorm):
    """A layer with running statistics other than batch norm's, and a count of the batches that moved them.

    Attributes:
        starts: The statistics, and what each starts from.
    """

    starts: tuple[tuple[str, float], ...]
    num_batches_tracked: Tensor  # None without running statistics, as each of `starts`

    def _register_statistics(
        self,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        *,
        rows: tuple[int, ...] = (),
        tracked: bool = True,
    ) -> None:
        for name, _ in self.starts:
            buffer = torch.empty(*rows, self.num_features, device=device, dtype=dtype)
            self.register_buffer(name, buffer if tracked else None)
        count = torch.empty(rows, device=device, dtype=torch.long)
        self.register_buffer("num_batches_tracked", count if tracked else None)
        self.register_load_state_dict_pre_hook(count_from_zero)

    def reset_running_stats(self) -> None:
        for name, start in (*self.starts, ("num_batches_tracked", 0)):
            buffer = self._buffers[name]
            if buffer is not None:
                buffer.fill_(start)

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        super().reset_parameters()


def newest_weight(
    num_batches: Tensor | None, momentum: float | None, moving_average_fraction: float | None = None
) -> float | Tensor:
    """Return the weight w of the newest batch, the t-th, in `running ← running + w (new − running)`.

        torch's moving average          w = momentum
        cumulative average              w = 1 / t                    (`momentum=None`)
        Caffe's moving average          w = (1 − α) / (1 − αᵗ)       (`moving_average_fraction=α`)

    Caffe's BatchNorm layer keeps two sums, S ← α S + new and s ← α s + 1, and reads S / s with s = (1 − αᵗ) / (1 − α).
    The rule above keeps S / s itself, and needs no buffer beyond the number of batches. The first batch replaces the
    initial value, of which torch's rule with momentum 1 − α = 0.001 still holds 37 % after 1000 steps.
    """
    if momentum is not None and moving_average_fraction is None:
        return momentum
    assert num_batches is not None  # both other rules are refused without running statistics
    num_batches = num_batches.double() if num_batches.device.type != "mps" else num_batches.float()
    if momentum is None:
        return 1 / num_batches
    # expm1 keeps the digits that 1 − αᵗ loses for α near 1, so that the first weight is exactly 1.
    log_fraction = math.log(moving_average_fraction or 0.0)
    return math.expm1(log_fraction) / torch.expm1(num_batches * log_fraction)


@torch.no_grad()
def update_running(layer: _NormBase, mean: Tensor, var: Tensor) -> None:
    """Count one more batch and move `layer.running_mean` and `layer.running_var` towards its statistics, in place.

    They do not move while `layer.track_running_stats` is False, which may be set after the layer is built, as in torch.

    No branch depends on a buffer's value, and nothing is read back from the device, for torch.compile(fullgraph=True),
    torch.export and vmap over stacked replicas. As with torch's layers, a transform of torch.func must be given the
    buffers as arguments (`functional_call`), not find them in a closure.

    Args:
        layer: Holds the running statistics and their options.
        mean: Of the batch, C values.
        var: Of the batch, unbiased.
    """
    if layer.running_mean is None or layer.running_var is None or not layer.track_running_stats:
        return
    fraction = getattr(layer, "moving_average_fraction", None)
    moves = ((layer.running_mean, mean), (layer.running_var, var))
    move_running(layer.num_batches_tracked, layer.momentum, *moves, moving_average_fraction=fraction)


@torch.no_grad()
def move_running(
    num_batches: Tensor | None,
    momentum: float | None,
    *moves: tuple[Tensor, Tensor],
    moving_average_fraction: float | None = None,
) -> None:
    """Count one more batch and move each running statistic, the first of two, towards its new value, in place.

    Do nothing where activation checkpointing runs a forward again. As in torch's kernel the step is taken in at least
    float32: a tenth of what float16 cannot hold may move a statistic that it can.
    """
    if is_recomputed():
        return
    if num_batches is not None:
        num_batches.add_(1)
    w = newest_weight(num_batches, momentum, moving_average_fraction)
    for running, new in moves:
        wide = torch.promote_types(running.dtype, torch.float32)
        running.copy_((1 - w) * running.to(wide) + w * new.reshape(running.shape).to(wide))


@torch.no_grad()
def commit(*moves: tuple[Tensor, Tensor]) -> None:
    """Write to each buffer, the first of two, its new value, but to none if a value is not finite.

    For state that training itself reads, in which an overflow would stay for ever.
    """
    moves = tuple((buffer, new.to(buffer.dtype)) for buffer, new in moves)
    finite = torch.stack([new.isfinite().all() for _, new in moves]).all()
    for buffer, new in moves:
        buffer.copy_(torch.where(finite, new, buffer))


def gradient_scale(layer: nn.Module, x: Tensor) -> float | Tensor:
    """Return what the gradients that will reach the layer are multiplied by: its `loss_scale`, 1 if that is not set.

    Raises:
        RuntimeError: If it is not set under autocast to float16, where a gradient scaler changes the scale.
    """
    scale: float | Tensor | None = layer.loss_scale  # type: ignore[assignment]
    if scale is not None:
        return scale
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast and torch.is_grad_enabled() and torch.get_autocast_dtype(device) == torch.float16:
        raise RuntimeError(
            f"{describe(layer)} averages gradients over steps, and float16 autocast needs a gradient scaler, which "
            f"changes their scale: before each forward set its attribute loss_scale to scaler.get_scale() (1.0 "
            f"without a scaler), or use bfloat16"
        )
    return 1.0


def snapshot(*values: Tensor) -> tuple[Tensor, ...]:
    """Keep values of one shape as they are now, for a forward that reads a buffer and then moves it in place.

    To save memory, torch.compile may compute again in the backward what the forward had, starting from the buffer,
    which has moved by then: the gradient is silently wrong (seen in torch 2.15, for any compiled layer that multiplies
    by a function of a buffer). A stack is saved, not computed again.
    """
    return torch.stack(values).unbind()


def count_from_zero(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load a state without the number of batches, of torch before 0.4.1 or of timm, as one of none.

    A state without any entry of the layer, of another part of the model, leaves the number as it is.
    """
    if isinstance(layer.num_batches_tracked, Tensor) and any(key.startswith(prefix) for key in state_dict):
        state_dict.setdefault(f"{prefix}num_batches_tracked", torch.zeros_like(layer.num_batches_tracked))
