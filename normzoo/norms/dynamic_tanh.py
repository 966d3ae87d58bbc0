"""Dynamic tanh: a bounded function of each value alone, in place of a norm."""

import torch
from torch import Tensor, nn

from normzoo.norms._layer import AffineNorm, scale_and_shift
from normzoo.norms._refuse import check_input
from normzoo.registry import register


@register(
    "dynamic_tanh",
    aliases=("DyT",),
    batch_dependent=False,
    paper="Zhu, Chen, He, LeCun & Liu, Transformers without Normalization, 2025, arXiv:2503.10622",
    reduces_over="-",
    minimum_count=1,
)
class DynamicTanh(AffineNorm):
    """Squash each value with a tanh of learned slope, in place of a norm.

        y = tanh(alpha · x) · weight + bias

    It does what a layer norm in a trained transformer does, on average, to its inputs: almost linear near 0, saturating
    far out. It does not replace batch norm well: ResNet-50 falls from 76.2 % to 68.9 % on ImageNet.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        alpha_init_value: Initial value of alpha, one number; the paper takes less than 0.5 in language models.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        bias: Whether the affine has a `bias`.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Source: Zhu, Chen, He, LeCun & Liu 2025, arXiv:2503.10622, section 4.
    """

    shown = ("alpha_init_value", "affine", "channel_dim")

    def __init__(
        self,
        num_features: int,
        alpha_init_value: float = 0.5,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, affine, device, dtype, bias=bias)
        self.alpha_init_value = alpha_init_value
        self.channel_dim = channel_dim
        self.alpha = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.alpha, self.alpha_init_value)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        y = torch.tanh(self.alpha * x)
        return scale_and_shift(y, self.weight, self.bias, self.channel_dim).to(x.dtype)
