"""The functions that EvoNorm B0, B1 and B2 are made of: moments of each map, and a quotient."""

import math
from typing import Any

import torch
from torch import Tensor

from normzoo.norms._reuse import reuse_memory


class Moments(torch.autograd.Function):
    """Mean and biased variance of each map: ∂mean/∂x = 1 / n, ∂var/∂x = 2 (x − mean) / n."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        reuse, dims = reuse_memory(x), tuple(range(2, x.dim()))
        x = x.to(dtype)
        mean = x.mean(dims, keepdim=True)
        centred = x - mean
        # A mean is only as exact as its own last digit: take out what it left.
        rest = centred.mean(dims, keepdim=True)
        centred = torch.sub(centred, rest, out=reuse(centred))
        square = torch.mul(centred, centred, out=reuse(centred))
        return mean + rest, square.mean(dims, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        reuse, n = reuse_memory(grad_mean, grad_var, x), math.prod(x.shape[2:])
        grad_x = x - mean
        grad_x = torch.mul(grad_x, grad_var * (2 / n), out=reuse(grad_x))
        return torch.add(grad_x, grad_mean / n, out=reuse(grad_x)).to(x.dtype), None


class Quotient(torch.autograd.Function):
    """y = x / d · weight + bias with d = max(floor, slope x + shift), and its chain rule in closed form.

    With g = ∂l/∂y, e = g x / d² where slope x + shift > floor and 0 elsewhere, and sums over a map,

        ∂l/∂bias  = Σ g;  ∂l/∂weight = Σ g x / d
        ∂l/∂shift = −weight Σ e;  ∂l/∂slope = −weight Σ e x
        ∂l/∂floor = −weight Σ (g x / d² − e) = −weight (Σ g x / d − slope Σ e x − shift Σ e) / floor,

    as d is floor where e is 0, and slope x + shift elsewhere;

        ∂l/∂x     = weight (g / d − slope e)

    d is computed again rather than kept: x is all that is saved.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, slope: Tensor, shift: Tensor, floor: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        reuse = reuse_memory(x, slope, shift, floor, weight, bias)
        wide = x.to(weight.dtype)
        d = wide * slope
        d = torch.add(d, shift, out=reuse(d))
        d = torch.maximum(d, floor, out=reuse(d))
        y = torch.div(wide, d, out=reuse(d))
        y = torch.mul(y, weight, out=reuse(y))
        return torch.add(y, bias, out=reuse(y)).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, slope, shift, floor, weight, bias = ctx.saved_tensors
        reuse = reuse_memory(grad, x, slope, shift, floor, weight)
        dtype, x, grad = x.dtype, x.to(weight.dtype), grad.to(weight.dtype)
        dims = tuple(range(2, x.dim()))
        line = x * slope
        line = torch.add(line, shift, out=reuse(line))
        d = torch.maximum(line, floor)
        above = torch.gt(line, floor, out=reuse(line))
        above = torch.div(above, d, out=reuse(above))
        grad_x = torch.div(grad, d, out=reuse(d))
        e = torch.mul(grad_x, above, out=reuse(above))
        e = torch.mul(e, x, out=reuse(e))
        sum_e = e.sum(dims, keepdim=True)
        grad_x = torch.addcmul(grad_x, e, -slope, out=reuse(grad_x))
        e = torch.mul(e, x, out=reuse(e))
        sum_ex = e.sum(dims, keepdim=True)
        product = torch.mul(grad_x, x, out=reuse(e))
        dot = product.sum(dims, keepdim=True)  # Σ g x / d − slope Σ e x
        return (
            torch.mul(grad_x, weight, out=reuse(grad_x)).to(dtype),
            (-weight * sum_ex).sum_to_size(slope.shape),
            (-weight * sum_e).sum_to_size(shift.shape),
            (weight * (shift * sum_e - dot) / floor).sum_to_size(floor.shape),
            (dot + slope * sum_ex).sum_to_size(weight.shape),
            grad.sum_to_size(bias.shape),
        )
