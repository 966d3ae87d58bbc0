"""Functions of each value alone that stand where a norm stood: no statistic, and a bounded output all the same."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norms._refuse import check_input
from normzoo.norms._standardize import per_channel
from normzoo.registry import register


class _Pointwise(nn.Module):
    """What the two have in common: learned numbers before the function, weight and bias after it."""

    alpha: nn.Parameter
    shift: nn.Parameter

    def __init__(
        self,
        num_features: int,
        numbers: dict[str, float],
        affine: bool,
        channel_dim: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.numbers = numbers
        self.affine = affine
        self.channel_dim = channel_dim
        for name in numbers:
            self.register_parameter(name, nn.Parameter(torch.empty(1, device=device, dtype=dtype)))
        self.weight = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, value in self.numbers.items():
            nn.init.constant_(self.get_parameter(name), value)
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def _scale(self, y: Tensor, x: Tensor) -> Tensor:
        if self.weight is not None and self.bias is not None:
            y = y * per_channel(self.weight, x, self.channel_dim) + per_channel(self.bias, x, self.channel_dim)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        numbers = "".join(f", {name}_init_value={value}" for name, value in self.numbers.items())
        return f"{self.num_features}{numbers}, affine={self.affine}, channel_dim={self.channel_dim}"


@register(
    "dynamic_tanh",
    aliases=("DyT",),
    batch_dependent=False,
    paper="Zhu, Chen, He, LeCun & Liu, Transformers without Normalization, 2025, arXiv:2503.10622",
    reduces_over="-",
)
class DynamicTanh(_Pointwise):
    """Squash each value with a tanh of learned slope, in place of a norm.

        y = tanh(alpha · x) · weight + bias

    It does what a layer norm of a trained transformer is seen to do, on average, to its inputs: almost linear near 0,
    saturating far out. Made for layer norms, it does not stand in well for batch norm: ResNet-50 falls from 76.2 % to
    68.9 % on ImageNet.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        alpha_init_value: What alpha, one number, is to begin with; the paper takes less than 0.5 in language models.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Raises:
        ValueError: If the number of channels of an input differs.

    Source: Zhu, Chen, He, LeCun & Liu 2025, arXiv:2503.10622, section 4.
    """

    def __init__(
        self,
        num_features: int,
        alpha_init_value: float = 0.5,
        affine: bool = True,
        *,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, {"alpha": alpha_init_value}, affine, channel_dim, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        return self._scale(torch.tanh(self.alpha * x), x)


class _Erf(torch.autograd.Function):
    """y = erf(u), u = alpha · x + shift, whose gradient computes u again rather than keep it beside x.

    ∂y/∂u = 2/√π exp(−u²);  ∂l/∂alpha = Σ x ∂l/∂u;  ∂l/∂shift = Σ ∂l/∂u;  ∂l/∂x = alpha ∂l/∂u
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, alpha: Tensor, shift: Tensor) -> Tensor:
        return torch.erf(torch.addcmul(shift, alpha, x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, alpha, shift = ctx.saved_tensors
        slope = 2 / math.sqrt(math.pi)
        u = torch.addcmul(shift, alpha, x)
        grad_u = grad * torch.exp(u * -u)  # but for the slope, which joins the numbers
        sums = (slope * (grad_u * x).sum(), slope * grad_u.sum())
        return (grad_u * (slope * alpha)).to(x.dtype), *(s.to(alpha.dtype).expand(alpha.shape) for s in sums)


@register(
    "dynamic_erf",
    aliases=("Derf",),
    batch_dependent=False,
    paper="Chen, Lu, Zhu, Sun & Liu, Stronger Normalization-Free Transformers, 2025, arXiv:2512.10938",
    reduces_over="-",
)
class DynamicErf(_Pointwise):
    """Squash each value with an error function of learned slope and shift, in place of a norm.

        y = erf(alpha · x + shift) · weight + bias

    The best of the functions that its paper tries in place of the tanh of `dynamic_tanh`.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        alpha_init_value: What alpha, one number, is to begin with.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        shift_init_value: What the shift, one number, is to begin with.
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
        return self._scale(_Erf.apply(x, self.alpha, self.shift), x)
