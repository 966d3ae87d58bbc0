"""Standardize, with its chain rule in closed form: the backward of every norm that takes mean and variance.

Measured on one core, maps (32, 64, 28, 28): without it forward and backward take 1.8 to 2.0 × the time, at the same
memory.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from normzoo.norms._kernels import Kernel
from normzoo.norms._kernels.sum_across_ranks import sum_across_ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class _Standardize(Kernel):
    """x_hat = (x − mean) · rstd, with the chain rule of the three outputs in one closed form.

    With g = ∂l/∂x_hat, and every sum over the n values of one statistic, Ioffe & Szegedy's chain rule reads

        ∂l/∂var  = Σ g (x − mean) · −½ rstd³
        ∂l/∂mean = −Σ g · rstd               (the path through var sums x − mean, which is 0)
        ∂l/∂x    = g rstd + ∂l/∂var · 2 (x − mean) / n + ∂l/∂mean / n

    and since x − mean = x_hat / rstd, it needs x_hat and var alone:

        ∂l/∂x = rstd (g − mean(g) − x_hat mean(g x_hat))

    Both are outputs, so that saving them costs nothing and the gradient can itself be differentiated. Gradients that
    arrive at the outputs mean and var join ∂l/∂mean and ∂l/∂var.
    """

    @staticmethod
    def forward(
        x: Tensor, dims: tuple[int, ...], eps: float, group: "ProcessGroup | None"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = wide.mean(dims, keepdim=True)
        centred = wide - mean
        rest = centred.mean(dims, keepdim=True)
        centred.sub_(rest)
        var = centred.square().mean(dims, keepdim=True)
        count = math.prod([x.shape[dim] for dim in dims])
        if group is None:
            mean, n = mean + rest, torch.full_like(mean, count)
        else:
            own_mean = mean.double() + rest if mean.device.type != "mps" else mean + rest
            n, merged_mean, merged_var = _merge(count, own_mean, var, group)
            centred.add_((own_mean - merged_mean).to(wide.dtype))
            n, mean, var = (statistic.to(wide.dtype) for statistic in (n, merged_mean, merged_var))
        x_hat = centred.mul_((var + eps).rsqrt())
        return x_hat.to(x.dtype), mean, var, n

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.dims, ctx.eps, ctx.group = inputs
        x_hat, _, var, n = output
        ctx.mark_non_differentiable(n)
        ctx.save_for_backward(x_hat, var, n)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, grad_mean: Tensor, grad_var: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None]:
        x_hat, var, n = ctx.saved_tensors
        dtype = grad.dtype
        grad, x_hat = grad.to(var.dtype), x_hat.to(var.dtype)
        std = (var + ctx.eps).sqrt()
        # What multiplies x_hat, and what multiplies 1, in ∂l/∂x − g rstd.
        slope = 2 * std * grad_var - (grad * x_hat).sum(ctx.dims, keepdim=True) / std
        shift = grad_mean - grad.sum(ctx.dims, keepdim=True) / std
        if ctx.group is not None:
            slope, shift = sum_across_ranks(torch.stack([slope, shift]), ctx.group)
        grad_x = torch.addcmul(grad / std, x_hat, slope / n).add_(shift / n)
        return grad_x.to(dtype), None, None, None


def _merge(count: int, mean: Tensor, var: Tensor, group: "ProcessGroup") -> tuple[Tensor, Tensor, Tensor]:
    """Merge each rank's own count, mean and biased variance in one gather; a rank may hold no values.

        n = Σ n_r;  μ = Σ n_r μ_r / n;  σ² = Σ n_r (σ²_r + (μ_r − μ)²) / n

    which takes no difference of large squares. The result is float64 where the device has it, and has the same bits on
    every rank.

    Source: Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    wide = torch.float32 if mean.device.type == "mps" else torch.float64
    if count == 0:
        # The mean of nothing is NaN, which no weight of zero would take out of the sums.
        mean, var = torch.zeros_like(mean), torch.zeros_like(var)
    own = torch.stack([torch.full_like(mean, count, dtype=wide), mean.to(wide), var.to(wide)])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    counts, means, variances = torch.stack(gathered, dim=1)
    n = counts.sum(0)
    mean = (counts * means).sum(0) / n
    return n, mean, (counts * (variances + (means - mean).square())).sum(0) / n


def standardize(
    x: Tensor, dims: Sequence[int], eps: float, *, group: "ProcessGroup | None" = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The kernel of `_standardize.standardize`."""
    return _Standardize.apply(x, tuple([dim % x.dim() for dim in dims]), eps, group)
