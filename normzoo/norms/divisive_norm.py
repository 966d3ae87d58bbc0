"""Divisive normalization: mean and variance of each sample over all channels in a window around each position."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from normzoo.norms._kernels import computed_by
from normzoo.norms._kernels import divide as kernel
from normzoo.norms._layer import AffineNorm
from normzoo.norms._refuse import check_count, check_input, invalid
from normzoo.norms._standardize import wide_per_channel, widen
from normzoo.registry import register


@computed_by(kernel.divide)
def divide(x: Tensor, weight: Tensor | None, bias: Tensor | None, size: int, sigma: float) -> Tensor:
    """Centre each position, and divide it by the deviation, over all channels and the window around it."""
    wide = widen(x)
    # An offset of the whole sample changes no v, but takes digits of the means.
    wide = wide - wide.detach().mean(tuple(range(1, x.dim())), keepdim=True)
    v = wide - window_mean(wide, size)
    x_hat = v * (sigma**2 + window_mean(v.square(), size)).rsqrt()
    return (x_hat if weight is None or bias is None else x_hat * weight + bias).to(x.dtype)


def window_mean(x: Tensor, size: int) -> Tensor:
    """Average over channels and the window around each position, cut off at the borders, dimension by dimension."""
    x = x.mean(1, keepdim=True)
    for dim in range(2, x.dim()):
        rows = x.movedim(dim, -1)
        mean = F.avg_pool1d(rows.flatten(1, -2), size, 1, padding=size // 2, count_include_pad=False)
        x = mean.reshape(rows.shape).movedim(-1, dim)
    return x


@register(
    "divisive_norm",
    aliases=("DN", "DivNorm"),
    batch_dependent=False,
    paper="Ren, Liao, Urtasun, Sinz & Zemel, Normalizing the Normalizers, 2017, arXiv:1611.04520",
    reduces_over="C, window",
)
class DivisiveNorm(AffineNorm):
    """Normalize each position of each sample over all channels in a window around it.

        v = x − mean(x);  y = v / sqrt(sigma² + mean(v²)) · weight + bias,  both means over C and the window

    The second mean is of the v of the window, each less the mean of its own window. sigma is not there for the digits:
    it decides from which contrast on the output saturates. At the borders the window is cut off, and on `(N, C)`, as
    after a dense layer, it runs over neighbouring channels.

    The paper gives its best results (DN*) together with an L1 penalty on v, which is part of a loss and not of this
    layer, and leaves weight and bias out: `affine=False`.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        window_size: Positions in a window in each dimension, an odd number; the paper takes 5 on large and 3 on small
            maps, and 61 or 121 channels in recurrent networks.
        sigma: What the deviation is smoothed with; the paper searches for it.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If `window_size` is not an odd number.

    Source: Ren et al. 2017, arXiv:1611.04520, equations 3, 4, 6 and 7, table 1. The authors' code counts zeros beyond
    the borders, and divides the second mean by the size of the first one's window.
    """

    shown = ("window_size", "sigma", "affine")

    def __init__(
        self,
        num_features: int,
        window_size: int = 5,
        sigma: float = 0.5,
        affine: bool = True,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if window_size < 1 or window_size % 2 == 0:
            raise invalid(self, f"window_size has a position in its middle, 1, 3, 5, ...; got {window_size}")
        super().__init__(num_features, affine, device, dtype, bias=bias)
        self.window_size = window_size
        self.sigma = sigma
        self.reset_parameters()

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the values in a window that no border cuts off."""
        if len(shape) == 2:
            return min(self.window_size, self.num_features)
        return self.num_features * math.prod([min(self.window_size, side) for side in shape[2:]])

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        check_count(self, x.shape, "use a larger window_size or map, or more channels")
        weight, bias = wide_per_channel(x, self.weight, self.bias)
        bias = torch.zeros_like(weight) if weight is not None and bias is None else bias
        if x.dim() == 2:  # the channels are the positions then
            return divide(x.unsqueeze(1), weight, bias, self.window_size, self.sigma).squeeze(1)
        return divide(x, weight, bias, self.window_size, self.sigma)
