"""Unit norm: the channels at each position get a length that an exponent gives."""

import torch
from torch import Tensor, nn

from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms.scale_norm import MEND
from normzoo.registry import register


@register(
    "unit_norm",
    batch_dependent=False,
    paper="Huang, Kümmerle & Zhang, UnitNorm, 2024, arXiv:2405.15903",
    reduces_over="C",
)
class UnitNorm(NormLayer):
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
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        check_count(self, x.shape, MEND, statistic="length", outcome="a number or its negative")
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=self.channel_dim, keepdim=True, dtype=wide)
        return (x * (self.num_features ** (self.k / 2) / length.clamp(min=self.eps))).to(x.dtype)

    def extra_repr(self) -> str:
        k = f"k={self.initial_k}{', learned' if self.learnable_k else ''}"
        return f"{self.num_features}, {k}, eps={self.eps}, channel_dim={self.channel_dim}"
