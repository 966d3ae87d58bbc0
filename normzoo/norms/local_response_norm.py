"""Local response normalization: each channel against its neighbours."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_input, invalid
from normzoo.registry import register


def sum_of_neighbours(x: Tensor, before: int, after: int) -> Tensor:
    """For each channel the sum of itself, the `before` channels before it and the `after` channels after it."""
    total = x.clone()
    for distance in range(1, before + 1):
        total[:, distance:] += x[:, :-distance]
    for distance in range(1, after + 1):
        total[:, :-distance] += x[:, distance:]
    return total


class _LocalResponse(torch.autograd.Function):
    """y = x d^−β, d = k + a Σ x² over a window of neighbouring channels, with its chain rule in closed form.

    With g = ∂l/∂y, and Σ' over the channels in whose windows a channel lies,

        ∂l/∂x = g d^−β − 2 a β x Σ' g x d^−(β + 1)

    d is computed again rather than kept: x is all that is saved.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, size: int, a: float, beta: float, k: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        d = sum_of_neighbours(wide * wide, size // 2, (size - 1) // 2).mul_(a).add_(k)
        return d.pow_(-beta).mul_(wide).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *ctx.options = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,), (size, a, beta, k) = ctx.saved_tensors, ctx.options
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        before, after = size // 2, (size - 1) // 2
        d = sum_of_neighbours(wide * wide, before, after) * a + k
        direct = grad * d.pow(-beta)
        through_d = sum_of_neighbours(direct * wide / d, after, before)
        return torch.addcmul(direct, wide, through_d, value=-2 * a * beta).to(x.dtype), None, None, None, None


@register(
    "local_response_norm",
    aliases={"LRN": {}, "nn.LocalResponseNorm": {"alpha": 1e-4, "k": 1.0}},
    batch_dependent=False,
    paper="Krizhevsky, Sutskever & Hinton, ImageNet Classification with Deep Convolutional Neural Networks, 2012",
    reduces_over="n of C",
    minimum_count=1,
)
class LocalResponseNorm(NormLayer, nn.LocalResponseNorm):
    """Divide each value by a power of the energy of its neighbouring channels at its position: what AlexNet had.

        y = x / (k + alpha / size · Σ x²)^beta,  Σ over the `size` nearest channels, fewer at the ends

    Batch norm's paper found that beside batch norm it is not needed. An instance of torch's `nn.LocalResponseNorm`,
    faster on the CPU, that keeps one activation for its backward instead of four.

    The paper writes alpha Σ x², without the division, and takes n = 5, alpha = 1e-4, beta = 0.75, k = 2. torch, as
    Caffe, divides alpha by the size. The argument here means what it means in torch, and so the paper's alpha is 5e-4,
    the default; torch's own defaults are alpha = 1e-4 and k = 1.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        size: The number of channels in a sum, n; the half of it, rounded down, come before the channel itself.
        alpha: Weight of the sum, times `size`.
        beta: The exponent.
        k: What is added to the sum.

    Raises:
        ValueError: If `size` is less than 1, or the number of channels of an input differs.

    Source: Krizhevsky, Sutskever & Hinton 2012, NIPS, section 3.3.
    """

    shown = ("size", "alpha", "beta", "k")

    def __init__(
        self, num_features: int, size: int = 5, alpha: float = 5e-4, beta: float = 0.75, k: float = 2.0
    ) -> None:
        if size < 1:
            raise invalid(self, f"size is a number of channels, 1 or more; got {size}")
        super().__init__(size, alpha, beta, k)
        self.num_features = num_features

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """The number of channels in a sum; near the first and the last channel there are fewer."""
        return min(self.size, self.num_features)

    def forward(self, input: Tensor) -> Tensor:
        check_input(self, input, self.num_features)
        return _LocalResponse.apply(input, self.size, self.alpha / self.size, self.beta, self.k)
