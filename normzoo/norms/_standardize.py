"""The equation that the norms share: mean 0 and variance 1 over some dimensions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from normzoo.norms._kernels import computed_by
from normzoo.norms._kernels import moments as moments_kernel
from normzoo.norms._kernels import standardize as kernel
from normzoo.norms._kernels.sum_across_ranks import sum_across_ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@computed_by(kernel.standardize)
def standardize(
    x: Tensor, dims: Sequence[int], eps: float, *, group: "ProcessGroup | None" = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre and scale `x` to mean 0 and variance 1 over `dims`.

        mean  = Σ x / n
        var   = Σ (x − mean)² / n
        x_hat = (x − mean) / sqrt(var + eps)

    The statistics take two passes and are at least float32 (float64 for float64); x_hat has the dtype and the memory
    format of `x` and is all that the gradient saves. The three outputs can be differentiated, twice.

    Shape: `(*)` -> `(*)` and three statistics with 1 in place of each of `dims`.

    Args:
        x: Any values.
        dims: The dimensions that one statistic averages.
        eps: Added to the variance, within the root.
        group: Processes whose values count as well: the statistics run over all of them, exactly, however many each
            holds. All must call, forward and backward, those that hold none too.

    Returns:
        x_hat, mean, var (biased) and n, the number of values in each statistic, as a tensor.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 1.
    """
    wide, dims = widen(x), tuple(dims)

    def total(values: Tensor) -> Tensor:
        own = values.sum(dims, keepdim=True)
        return own if group is None else sum_across_ranks(own, group)

    n = total(wide.new_ones(()).expand_as(wide))
    mean = total(wide) / n
    centred = wide - mean
    # A mean is only as exact as its own last digit, which at an offset of 1e6 is 0.06: take out what it left.
    rest = total(centred) / n
    centred = centred - rest
    var = total(centred.square()) / n
    x_hat = centred * (var + eps).rsqrt()
    return x_hat.to(x.dtype), mean + rest, var, n


def centre(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return `x` less its mean over `dims`, and the mean, in two passes and at least float32."""
    wide = widen(x)
    mean = wide.mean(dims, keepdim=True)
    rest = (wide - mean).mean(dims, keepdim=True)  # as in `standardize`
    return wide - mean - rest, mean + rest


@computed_by(moments_kernel.moments)
def moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of each map, as a sum of two, and its biased variance: near, rest and var, mean = near + rest.

    The last digit of near, which is a constant to the gradient, is 0.06 at an offset of 1e6; but x − near loses
    nothing, and the rest is as exact as the deviations are.

    Shape: `(N, C, *)` -> three of `(N, C, 1, …)`.
    """
    dims, x = tuple(range(2, x.dim())), x.to(dtype)
    near = x.detach().mean(dims, keepdim=True)
    centred = x - near
    rest = centred.mean(dims, keepdim=True)
    return near, rest, (centred - rest).square().mean(dims, keepdim=True)


def group_mean(x: Tensor, groups: int) -> Tensor:
    """Average over each group of channels and the positions, for each channel of the group: `(N, C, 1, …)`."""
    mean = x.mean(tuple(range(2, x.dim())), keepdim=True)
    grouped = mean.reshape(x.shape[0], groups, x.shape[1] // groups)
    return grouped.mean(2, keepdim=True).expand_as(grouped).reshape(mean.shape)


def widen(x: Tensor) -> Tensor:
    """Cast to float32, unless `x` is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_channel(parameter: Tensor, x: Tensor, channel_dim: int = 1) -> Tensor:
    """Shape a vector of length C to multiply or add to `x` of shape `(N, C, *)`, or with C at `channel_dim`."""
    return parameter.view(-1, *[1] * (x.dim() - 1 - channel_dim % x.dim()))


def wide_per_channel(x: Tensor, *parameters: Tensor | None) -> tuple[Any, ...]:
    """Shape vectors of length C as `per_channel` does, in at least float32; None stays."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return tuple(None if each is None else per_channel(each, x).to(wide) for each in parameters)
