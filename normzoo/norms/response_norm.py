"""Response normalization: each channel against its neighbours, or against all others."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norms._layer import AffineNorm, NormLayer
from normzoo.norms._refuse import NormValueError, check_input, describe, invalid
from normzoo.norms._standardize import per_channel
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


@register(
    "global_response_norm",
    aliases=("GRN",),
    batch_dependent=False,
    paper="Woo et al., ConvNeXt V2, 2023, arXiv:2301.00808",
    reduces_over="*, then C",
    ranks=(3, 4, 5),
    peers=("timm.layers.grn.GlobalResponseNorm",),
    minimum_count=1,
)
class GlobalResponseNorm(AffineNorm):
    """Amplify each channel of a sample by the length of its map, against the mean length over channels.

        length = ‖x‖ over (*);  relative = length / (mean(length) + eps),  mean over C
        y = weight · x · relative + bias + x

    weight and bias begin with 0, and so the layer with the identity. In its paper it stands within the blocks of a
    network that has layer norms too, to keep channels from saying the same.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`; with one dimension of
    positions or more.

    Args:
        num_features: C.
        eps: Added to the mean length.
        channel_dim: Where the channels are: 1 for feature maps, -1 as in the authors' code.

    Raises:
        ValueError: If the number of channels of an input differs, or it has no positions.

    Source: Woo et al. 2023, arXiv:2301.00808, section 4. Its equation 2 divides by the sum of the lengths, its
    algorithm 1 by their mean, as the authors' code and weights do, and as here: C times as much, to the same weight.
    """

    shown = ("eps", "channel_dim")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-6,
        *,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, True, device, dtype)
        self.eps = eps
        self.channel_dim = channel_dim
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        if x.dim() < 3:
            raise NormValueError(
                f"{describe(self)} got the shape {tuple(x.shape)}, which has no positions to take a length over: "
                f"put it where there are maps, or use a norm over channels, such as layer_norm"
            )
        weight, bias = (per_channel(p, x, self.channel_dim) for p in (self.weight, self.bias))
        positions = [dim for dim in range(1, x.dim()) if dim != self.channel_dim % x.dim()]
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=positions, keepdim=True, dtype=wide)
        relative = length / (length.mean(self.channel_dim, keepdim=True) + self.eps)
        return (x * (1 + weight * relative) + bias).to(x.dtype)
