"""Pixel norm: the channels at each position by their root mean square, with nothing to learn."""

import torch
from torch import Tensor

from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms.scale_norm import MEND
from normzoo.registry import register


@register(
    "pixel_norm",
    batch_dependent=False,
    paper="Karras, Aila, Laine & Lehtinen, Progressive Growing of GANs, 2018, arXiv:1710.10196",
    reduces_over="C",
)
class PixelNorm(NormLayer):
    """Divide the vector of channels at each position by its root mean square, with nothing to learn.

        y = x / sqrt(mean(x²) + eps),  mean over C

    Its paper puts it after the activation, and calls it a variant of local response normalization.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        eps: Added to the mean square, within the root.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Source: Karras et al. 2018, arXiv:1710.10196, section 4.2.
    """

    shown = ("eps", "channel_dim")

    def __init__(self, num_features: int, eps: float = 1e-8, *, channel_dim: int = 1) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        check_count(self, x.shape, MEND, statistic="length", outcome="a number or its negative")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_square = wide.square().mean(self.channel_dim, keepdim=True)
        return (x * (mean_square + self.eps).rsqrt()).to(x.dtype)
