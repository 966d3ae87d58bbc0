"""Dynamic erf: a bounded function of each value alone, in place of a norm."""

import torch
from torch import Tensor

from normzoo.norms._kernels import recomputed
from normzoo.norms._pointwise import Pointwise
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
)
class DynamicErf(Pointwise):
    """Squash each value with an error function of learned slope and shift, in place of a norm.

        y = erf(alpha · x + shift) · weight + bias

    The best of the functions that its paper tries in place of the tanh of `dynamic_tanh`.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        alpha_init_value: Initial value of alpha, one number.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        shift_init_value: Initial value of the shift, one number.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Raises:
        ValueError: If the number of channels of an input differs.

    Source: Chen, Lu, Zhu, Sun & Liu 2025, arXiv:2512.10938, section 5, equation 10.
    """

    def __init__(
        self,
        num_features: int,
        alpha_init_value: float = 0.5,
        affine: bool = True,
        *,
        shift_init_value: float = 0.0,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        numbers = {"alpha": alpha_init_value, "shift": shift_init_value}
        super().__init__(num_features, numbers, affine, channel_dim, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        return self._scale(squash(x, self.alpha, self.shift), x)
