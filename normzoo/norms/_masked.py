"""Statistics over the valid positions of padded batches."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normzoo.norms._layer import NormLayer, scale_and_shift
from normzoo.norms._refuse import NormTypeError, NormValueError, check_input, describe
from normzoo.norms._running import update_running
from normzoo.norms._standardize import widen


def takes_mask(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a layer's forward take `mask`: True where a position is valid, of shape `(N, *)`, or one that broadcasts.

    The statistics are over the valid positions alone, so that the output there is that of the computation without
    padding; it is 0 elsewhere, whatever the padding holds.
    """
    signature = inspect.signature(forward)
    mask_argument = inspect.Parameter("mask", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Tensor | None)

    @functools.wraps(forward)
    def forward_or_masked(layer: Any, *args: Any, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        if mask is None:
            return forward(layer, *args, **kwargs)
        (x,) = (*args, *kwargs.values())
        return _forward_masked(layer, forward, x, mask)

    parameters = [*signature.parameters.values(), mask_argument]
    forward_or_masked.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return forward_or_masked


def _forward_masked(layer: Any, forward: Callable[..., Tensor], x: Tensor, mask: Tensor) -> Tensor:
    channel_dim = getattr(layer, "channel_dim", 1)
    if isinstance(layer.num_features, tuple) and len(layer.num_features) > 1:
        raise NormValueError(f"{describe(layer)} takes no mask: it normalizes positions together, valid or not")
    check_input(layer, x, layer.num_features, channel_dim=channel_dim)
    valid = _broadcast(layer, x, mask, channel_dim)
    x = torch.where(valid, x, 0)  # padding may hold anything
    running = getattr(layer, "uses_running_statistics", False) or not getattr(layer, "uses_batch_statistics", True)
    if layer.reduces_over == "C" or running:
        y = forward(layer, x)  # position by position
    else:
        y = scale_and_shift(_standardize_valid(layer, x, valid), layer.weight, layer.bias)
    return torch.where(valid, y, 0).to(x.dtype)


def _standardize_valid(layer: Any, x: Tensor, valid: Tensor) -> Tensor:
    """x_hat = (x − mean) / sqrt(var + eps), mean = Σ x / n, var = Σ (x − mean)² / n, sums over n valid positions."""
    wide = widen(x)
    over_batch = layer.reduces_over == "N, *"
    groups = {"*": layer.num_features, "C, *": 1}.get(layer.reduces_over, getattr(layer, "num_groups", 1))
    grouped = wide if over_batch else wide.unflatten(1, (groups, -1))
    valid = (valid if over_batch else valid.unsqueeze(1)).expand_as(grouped)
    dims = (0, *range(2, x.dim())) if over_batch else tuple(range(2, grouped.dim()))
    n = valid.sum(dims, keepdim=True)

    def mean_of(values: Tensor) -> Tensor:
        return torch.where(valid, values, 0).sum(dims, keepdim=True) / n.clamp(min=1)

    mean = mean_of(grouped)
    rest = mean_of(grouped - mean)  # what the last digit of a mean has left
    centred = grouped - mean - rest
    var = mean_of(centred.square())
    if layer.training and getattr(layer, "running_mean", None) is not None:
        _update_running(layer, (mean + rest).detach(), (var * n / (n - 1).clamp(min=1)).detach(), n)
    return (centred * (var + layer.eps).rsqrt()).reshape(x.shape)


def _update_running(layer: Any, mean: Tensor, var: Tensor, n: Tensor) -> None:
    """Move running statistics to those of the batch, or the mean over its instances; where nothing is valid, not."""
    some = (n > 0).to(mean.dtype)
    instances = some.sum(0).clamp(min=1)
    mean, var = ((each * some).sum(0) / instances for each in (mean, var))
    seen = some.sum(0).flatten() > 0
    count = layer.num_batches_tracked
    before = count.clone() if isinstance(count, Tensor) else None
    update_running(
        layer,
        torch.where(seen, mean.flatten(), layer.running_mean.to(mean.dtype)),
        torch.where(seen, var.flatten(), layer.running_var.to(mean.dtype)),
    )
    if before is not None:
        count.copy_(torch.where(seen.any(), count, before))  # a batch of padding is no batch


def _broadcast(layer: NormLayer, x: Tensor, mask: Tensor, channel_dim: int) -> Tensor:
    """Return the mask with a dimension for the channels."""
    if mask.dtype != torch.bool:
        raise NormTypeError(f"{describe(layer)} takes a mask of booleans, True where valid; got {mask.dtype}")
    valid = mask.unsqueeze(channel_dim % x.dim()) if mask.dim() == x.dim() - 1 else mask
    sizes = [1 if dim == channel_dim % x.dim() else size for dim, size in enumerate(x.shape)]
    if valid.dim() != x.dim() or any(own not in (1, size) for own, size in zip(valid.shape, sizes, strict=True)):
        positions = tuple(size for dim, size in enumerate(x.shape) if dim != channel_dim % x.dim())
        raise NormValueError(
            f"{describe(layer)} takes a mask of shape {positions} for an input of shape {tuple(x.shape)}, True where "
            f"valid; got {tuple(mask.shape)}"
        )
    return valid
