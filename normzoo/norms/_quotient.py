"""The functions that EvoNorm B0, B1 and B2 are made of: moments of each map, and a quotient."""

import math
from typing import Any

import torch
from torch import Tensor

from normzoo.norms._reuse import reuse_memory


class Moments(torch.autograd.Function):
    """Mean and biased variance of each map: ∂mean/∂x = 1 / n, ∂var/∂x = 2 (x − mean) / n.

    The mean comes as a sum of two: a number near it, which counts as a constant, and the rest. The last digit of the
    one is 0.06 at an offset of 1e6, but x − near loses nothing, and the rest is as exact as the deviations are.
    """

    generate_vmap_rule = True

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


class Excess(torch.autograd.Function):
    """The root mean square of each map less the part of it that its mean makes out, max(near, 0).

        rms − centre = (var + eps + (mean − centre) (mean + centre)) / (rms + centre),  centre = max(near, 0)

    where no difference is one of large numbers that are nearly equal: mean − centre is the rest, or if the mean is
    negative, and centre 0, rms − x is none. ∂/∂mean = mean / rms, ∂/∂var = ½ / rms.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(near: Tensor, rest: Tensor, var: Tensor, eps: float) -> Tensor:
        centre = near.clamp(min=0)
        over = (near - centre) + rest
        square = var + eps + over * (2 * centre + over)  # rms² − centre²
        return square / ((square + centre.square()).sqrt() + centre)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        near, rest, _, _ = inputs
        ctx.save_for_backward(near, rest, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None]:
        near, rest, excess = ctx.saved_tensors
        grad = grad / (excess + near.clamp(min=0))
        return None, grad * (near + rest), grad / 2, None


def _line(x: Tensor, slope: Tensor | None, near: Tensor | None) -> Tensor:
    """slope · x, or max(near, 0) − x."""
    if near is not None:
        return near.clamp(min=0) - x
    assert slope is not None
    return x * slope


class Quotient(torch.autograd.Function):
    """y = x / d · weight + bias with d = max(floor, line), and its chain rule in closed form.

        line = slope · x + shift,  or without a slope  line = (max(near, 0) − x) + shift

    near is a constant, whose difference from x keeps the digits that x has not. With g = ∂l/∂y, e = g x / d² where
    line > floor and 0 elsewhere, slope = −1 where there is none, and sums over a map,

        ∂l/∂bias  = Σ g;  ∂l/∂weight = Σ g x / d
        ∂l/∂shift = −weight Σ e;  ∂l/∂slope = −weight Σ e x
        ∂l/∂floor = −weight Σ (g x / d² − e) = −weight (Σ g x / d − Σ e line) / floor,

    as d is floor where e is 0, and line elsewhere;

        ∂l/∂x     = weight (g / d − slope e)

    d is computed again rather than kept: x is all that is saved.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        slope: Tensor | None,
        near: Tensor | None,
        shift: Tensor,
        floor: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        reuse = reuse_memory(x, slope, near, shift, floor, weight, bias)
        wide = x.to(weight.dtype)
        d = _line(wide, slope, near)
        d = torch.add(d, shift, out=reuse(d))
        d = torch.maximum(d, floor, out=reuse(d))
        y = torch.div(wide, d, out=reuse(d))
        y = torch.mul(y, weight, out=reuse(y))
        return torch.add(y, bias, out=reuse(y)).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, slope, near, shift, floor, weight, bias = ctx.saved_tensors
        reuse = reuse_memory(grad, x, slope, near, shift, floor, weight)
        dtype, x, grad = x.dtype, x.to(weight.dtype), grad.to(weight.dtype)
        dims, grad_slope = tuple(range(2, x.dim())), None
        line = _line(x, slope, near)
        line = torch.add(line, shift, out=reuse(line))
        d = torch.maximum(line, floor)
        above = torch.gt(line, floor, out=reuse(line))
        above = torch.div(above, d, out=reuse(above))
        grad_x = torch.div(grad, d, out=reuse(d))
        e = torch.mul(grad_x, above, out=reuse(above))
        e = torch.mul(e, x, out=reuse(e))
        sum_e = e.sum(dims, keepdim=True)
        if near is None:
            grad_x = torch.addcmul(grad_x, e, -slope, out=reuse(grad_x))
            e = torch.mul(e, x, out=reuse(e))
            sum_ex = e.sum(dims, keepdim=True)
            grad_slope = (-weight * sum_ex).sum_to_size(slope.shape)
            product = torch.mul(grad_x, x, out=reuse(e))
            below = product.sum(dims, keepdim=True) - shift * sum_e  # Σ g x / d − Σ e line
            dot = below + slope * sum_ex + shift * sum_e
        else:
            product = grad_x * x
            dot = product.sum(dims, keepdim=True)
            grad_x = torch.add(grad_x, e, out=reuse(grad_x))
            fall = torch.sub(near.clamp(min=0), x, out=reuse(product))
            below = dot - torch.mul(e, fall, out=reuse(e)).sum(dims, keepdim=True) - shift * sum_e
        return (
            torch.mul(grad_x, weight, out=reuse(grad_x)).to(dtype),
            grad_slope,
            None,
            (-weight * sum_e).sum_to_size(shift.shape),
            (-weight * below / floor).sum_to_size(floor.shape),
            dot.sum_to_size(weight.shape),
            grad.sum_to_size(bias.shape),
        )
