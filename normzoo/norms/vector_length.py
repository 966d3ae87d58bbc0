"""Norms that divide the vector of channels at each position by its length, and subtract no mean."""

import math

import torch
from torch import Tensor, nn

from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input
from normzoo.registry import register

MEND = "use more channels, or leave the norm out at this place"


class _VectorLength(NormLayer):
    """What the three have in common: the channels at each position are one vector."""

    shown = ("eps", "channel_dim")
    num_features: int
    channel_dim: int

    def _check(self, x: Tensor) -> None:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        check_count(self, x.shape, MEND, statistic="length", outcome="a number or its negative")

    def _length(self, x: Tensor) -> Tensor:
        """Of the vector at each position, in at least float32; its gradient at 0 is 0."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return torch.linalg.vector_norm(x, dim=self.channel_dim, keepdim=True, dtype=wide)


@register(
    "scale_norm",
    batch_dependent=False,
    paper="Nguyen & Salazar, Transformers without Tears, 2019, arXiv:1910.05895",
    reduces_over="C",
)
class ScaleNorm(_VectorLength):
    """Give the vector of channels at each position one learned length.

        y = weight · x / ‖x‖,  ‖x‖ over C, weight one number

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C; the weight begins with √C.
        eps: The least that is divided by, for vectors near 0.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Raises:
        ValueError: If the number of channels of an input differs, or is 1.

    Source: Nguyen & Salazar 2019, arXiv:1910.05895; eps as in the authors' code.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        *,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.channel_dim = channel_dim
        self.weight = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, math.sqrt(self.num_features))

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        y = x * (self.weight / self._length(x).clamp(min=self.eps))
        return y.to(x.dtype)


@register(
    "pixel_norm",
    batch_dependent=False,
    paper="Karras, Aila, Laine & Lehtinen, Progressive Growing of GANs, 2018, arXiv:1710.10196",
    reduces_over="C",
)
class PixelNorm(_VectorLength):
    """Divide the vector of channels at each position by its root mean square, with nothing to learn.

        y = x / sqrt(mean(x²) + eps),  mean over C

    Its paper puts it after the activation, and calls it a variant of local response normalization.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        eps: Added to the mean square, within the root.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Raises:
        ValueError: If the number of channels of an input differs, or is 1.

    Source: Karras et al. 2018, arXiv:1710.10196, section 4.2.
    """

    def __init__(self, num_features: int, eps: float = 1e-8, *, channel_dim: int = 1) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        mean_square = self._length(x).square() / self.num_features
        return (x * (mean_square + self.eps).rsqrt()).to(x.dtype)


@register(
    "unit_norm",
    batch_dependent=False,
    paper="Huang, Kümmerle & Zhang, UnitNorm, 2024, arXiv:2405.15903",
    reduces_over="C",
)
class UnitNorm(_VectorLength):
    """Give the vector of channels at each position the length C^(k/2), for an exponent k.

        y = C^(k/2) · x / ‖x‖,  ‖x‖ over C

    k = 0 gives unit vectors, k = 1 a root mean square of 1. Made for the transformers of time series, where k sets how
    far attention can be from even: products of two such vectors lie within ±C^k.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        k: The exponent.
        eps: The least that is divided by, for vectors near 0.
        learnable_k: Whether to learn k, which is then a parameter of one number.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Raises:
        ValueError: If the number of channels of an input differs, or is 1.

    Source: Huang, Kümmerle & Zhang 2024, arXiv:2405.15903. The authors' code has no eps, learns a k for each channel,
    and can learn a weight and a bias, which the equation does not have.
    """

    def __init__(
        self,
        num_features: int,
        k: float = 0.5,
        eps: float = 1e-5,
        *,
        learnable_k: bool = False,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.channel_dim = channel_dim
        self.initial_k = k
        self.learnable_k = learnable_k
        self.k = nn.Parameter(torch.empty(1, device=device, dtype=dtype)) if learnable_k else k
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if isinstance(self.k, nn.Parameter):
            nn.init.constant_(self.k, self.initial_k)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        length = self.num_features ** (self.k / 2)
        return (x * (length / self._length(x).clamp(min=self.eps))).to(x.dtype)

    def extra_repr(self) -> str:
        k = f"k={self.initial_k}{', learned' if self.learnable_k else ''}"
        return f"{self.num_features}, {k}, eps={self.eps}, channel_dim={self.channel_dim}"
