"""Dynamic erf: a bounded function of each value alone, in place of a norm."""

import torch
from torch import Tensor, nn

from normzoo.norms._kernels import recomputed
from normzoo.norms._layer import AffineNorm, scale_and_shift
from normzoo.norms._refuse import check_input
from normzoo.registry import register


@recomputed
def squash(x: Tensor, alpha: Tensor, shift: Tensor) -> Tensor:
    """Squash each value; x is all that is saved."""
    return torch.erf(alpha * x + shift)


@register(
    "dynamic_erf",
    aliases=("Derf",),
    batch_dependent=False,
    paper="Chen, Lu, Zhu, Sun & Liu, Stronger Normalization-Free Transformers, 2025, arXiv:2512.10938",
    reduces_over="-",
    minimum_count=1,
)
class DynamicErf(AffineNorm):
    """Squash each value with an error function of learned slope and shift, in place of a norm.

        y = erf(alpha · x + shift) · weight + bias

    The best of the functions that its paper tries in place of the tanh of `dynamic_tanh`.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        alpha_init_value: Initial value of alpha, one number.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        bias: Whether the affine has a `bias`.
        shift_init_value: Initial value of the shift, one number.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Source: Chen, Lu, Zhu, Sun & Liu 2025, arXiv:2512.10938, section 5, equation 10.
    """

    shown = ("alpha_init_value", "shift_init_value", "affine", "channel_dim")

    def __init__(
        self,
        num_features: int,
        alpha_init_value: float = 0.5,
        affine: bool = True,
        *,
        bias: bool = True,
        shift_init_value: float = 0.0,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, affine, device, dtype, bias=bias)
        self.alpha_init_value = alpha_init_value
        self.shift_init_value = shift_init_value
        self.channel_dim = channel_dim
        self.alpha = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.shift = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.alpha, self.alpha_init_value)
        nn.init.constant_(self.shift, self.shift_init_value)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        y = squash(x, self.alpha, self.shift)
        return scale_and_shift(y, self.weight, self.bias, self.channel_dim).to(x.dtype)
