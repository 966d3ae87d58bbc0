"""Mean and variance of each map, with their chain rule in closed form.

Measured on one core, maps (32, 64, 28, 28): without it EvoNorm B0, B1 and B2 take 1.3 to 1.4 × the time, forward and
backward, at the same memory.
"""

import math
from typing import Any

import torch
from torch import Tensor

from normzoo.norms._kernels import Kernel
from normzoo.norms._memory import reuse_memory


class _Moments(Kernel):
    """Mean and biased variance of each map: ∂mean/∂x = 1 / n, ∂var/∂x = 2 (x − mean) / n.

    The mean is the sum of near, a constant, and rest.
    """

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        reuse, dims = reuse_memory(x), tuple(range(2, x.dim()))
        x = x.to(dtype)
        near = x.mean(dims, keepdim=True)
        centred = x - near
        rest = centred.mean(dims, keepdim=True)
        centred = torch.sub(centred, rest, out=reuse(centred))
        square = torch.mul(centred, centred, out=reuse(centred))
        return near, rest, square.mean(dims, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        near, rest, _ = output
        ctx.mark_non_differentiable(near)
        ctx.save_for_backward(inputs[0], near, rest)

    @staticmethod
    def backward(ctx: Any, _: Tensor, grad_mean: Tensor, grad_var: Tensor) -> tuple[Tensor, None]:
        x, near, rest = ctx.saved_tensors
        reuse, n = reuse_memory(grad_mean, grad_var, x), math.prod(x.shape[2:])
        slope = grad_var * (2 / n)
        grad_x = x - near
        grad_x = torch.mul(grad_x, slope, out=reuse(grad_x))
        return torch.add(grad_x, grad_mean / n - slope * rest, out=reuse(grad_x)).to(x.dtype), None


def moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel of `_standardize.moments`."""
    return _Moments.apply(x, dtype)
