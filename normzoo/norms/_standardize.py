"""The one equation that the norms share."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from normzoo.norms._across_ranks import merge_statistics, sum_across_ranks
from normzoo.norms._kernels import computed_by
from normzoo.norms._kernels import moments as kernel

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class _Standardize(torch.autograd.Function):
    """x_hat = (x − mean) · rstd, with the chain rule of the three outputs folded into one closed form.

    With g = ∂l/∂x_hat, and every sum over the n values of one statistic, Ioffe & Szegedy's chain rule reads

        ∂l/∂var  = Σ g (x − mean) · −½ rstd³
        ∂l/∂mean = −Σ g · rstd               (the path through var sums x − mean, which is 0)
        ∂l/∂x    = g rstd + ∂l/∂var · 2 (x − mean) / n + ∂l/∂mean / n

    and since x − mean = x_hat / rstd, all of it needs x_hat and var alone:

        ∂l/∂x = rstd (g − mean(g) − x_hat mean(g x_hat))

    Both are outputs, so that they are saved at no cost and the gradient can itself be differentiated. Gradients that
    arrive at the outputs mean and var join ∂l/∂mean and ∂l/∂var.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, dims: tuple[int, ...], eps: float, group: "ProcessGroup | None"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = wide.mean(dims, keepdim=True)
        centred = wide - mean
        # A mean is only as exact as its own last digit, which at an offset of 1e6 is 0.06: take out what it left.
        rest = centred.mean(dims, keepdim=True)
        centred.sub_(rest)
        var = centred.square().mean(dims, keepdim=True)
        count = math.prod([x.shape[dim] for dim in dims])
        if group is None:
            mean = mean + rest
            total = torch.full_like(mean, count)
        else:
            own_mean = mean.double() + rest if mean.device.type != "mps" else mean + rest
            total, merged_mean, merged_var = merge_statistics(count, own_mean, var, group)
            centred.add_((own_mean - merged_mean).to(wide.dtype))
            total, mean, var = (s.to(wide.dtype) for s in (total, merged_mean, merged_var))
        x_hat = centred.mul_((var + eps).rsqrt())
        return x_hat.to(x.dtype), mean, var, total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.dims, ctx.eps, ctx.group = inputs
        x_hat, _, var, total = output
        ctx.mark_non_differentiable(total)
        ctx.save_for_backward(x_hat, var, total)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, grad_mean: Tensor, grad_var: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None]:
        x_hat, var, total = ctx.saved_tensors
        dtype = grad.dtype
        grad, x_hat = grad.to(var.dtype), x_hat.to(var.dtype)
        std = (var + ctx.eps).sqrt()
        # What multiplies x_hat, and what multiplies 1, in ∂l/∂x − g rstd.
        slope = 2 * std * grad_var - (grad * x_hat).sum(ctx.dims, keepdim=True) / std
        shift = grad_mean - grad.sum(ctx.dims, keepdim=True) / std
        if ctx.group is not None:
            slope, shift = sum_across_ranks(torch.stack([slope, shift]), ctx.group)
        grad_x = torch.addcmul(grad / std, x_hat, slope / total).add_(shift / total)
        return grad_x.to(dtype), None, None, None


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
        dims: The dimensions that one statistic averages.
        eps: Added to the variance, within the root.
        group: Processes whose values count as well: the statistics run over all of them, exactly, however many each
            holds. All must call, forward and backward, those that hold none too.

    Returns:
        x_hat, mean, var (biased) and n, the number of values in each statistic, as a tensor.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 1.
    """
    return _Standardize.apply(x, tuple([dim % x.dim() for dim in dims]), eps, group)


def centre(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """x less its mean over `dims`, and the mean, in two passes and at least float32: for norms without a variance."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(dims, keepdim=True)
    # A mean is only as exact as its own last digit, which at an offset of 1e6 is 0.06: take out what it left.
    rest = (wide - mean).mean(dims, keepdim=True)
    return wide - mean - rest, mean + rest


@computed_by(kernel.moments)
def moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Take mean and biased variance of each map, the mean as a sum of two: a constant near it, and the rest.

    The last digit of the one is 0.06 at an offset of 1e6, but x − near loses nothing, and the rest is as exact as the
    deviations are.

    Shape: `(N, C, *)` -> three of `(N, C, 1, …)`.
    """
    dims, x = tuple(range(2, x.dim())), x.to(dtype)
    near = x.detach().mean(dims, keepdim=True)
    centred = x - near
    rest = centred.mean(dims, keepdim=True)
    return near, rest, (centred - rest).square().mean(dims, keepdim=True)


def group_mean(x: Tensor, groups: int) -> Tensor:
    """The mean over each group of channels and the positions, for each channel of the group: (N, C, 1, ...)."""
    mean = x.mean(tuple(range(2, x.dim())), keepdim=True)
    grouped = mean.reshape(x.shape[0], groups, x.shape[1] // groups)
    return grouped.mean(2, keepdim=True).expand_as(grouped).reshape(mean.shape)


def per_channel(parameter: Tensor, x: Tensor, channel_dim: int = 1) -> Tensor:
    """A vector of length C, shaped to multiply or add to `x` of shape (N, C, *), or with C at `channel_dim`."""
    return parameter.view(-1, *[1] * (x.dim() - 1 - channel_dim % x.dim()))
