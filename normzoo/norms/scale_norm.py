"""Scale norm: the channels at each position get one learned length."""

import math

import torch
from torch import Tensor, nn

from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input
from normzoo.registry import register

MEND = "use more channels, or leave the norm out at this place"


@register(
    "scale_norm",
    batch_dependent=False,
    paper="Nguyen & Salazar, Transformers without Tears, 2019, arXiv:1910.05895",
    reduces_over="C",
)
class ScaleNorm(NormLayer):
    """Give the vector of channels at each position one learned length.

        y = weight · x / ‖x‖,  ‖x‖ over C, weight one number

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C; the weight begins with √C.
        eps: The least that is divided by, for vectors near 0.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Source: Nguyen & Salazar 2019, arXiv:1910.05895; eps as in the authors' code.
    """

    shown = ("eps", "channel_dim")

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
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        check_count(self, x.shape, MEND, statistic="length", outcome="a number or its negative")
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=self.channel_dim, keepdim=True, dtype=wide)
        return (x * (self.weight / length.clamp(min=self.eps))).to(x.dtype)
