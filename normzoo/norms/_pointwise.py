"""What the functions share that stand where a norm stood: learned numbers before, weight and bias after."""

import torch
from torch import Tensor, nn

from normzoo.norms._standardize import per_channel


class Pointwise(nn.Module):
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
