"""A norm that normzoo does not have."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import normzoo


@normzoo.register("mean_abs_norm", aliases=("MAN",), batch_dependent=False, reduces_over="C", minimum_count=2)
class MeanAbsNorm(nn.Module):
    """Divide the channels at each position by their mean absolute value.

        y = x / (mean(|x|) + eps) · weight,  mean over C

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the mean.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        return self.num_features

    def forward(self, x: Tensor) -> Tensor:
        if not 2 <= x.dim() <= 5 or x.shape[1] != self.num_features:
            raise ValueError(f"MeanAbsNorm({self.num_features}) takes (N, C, *), got the shape {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"MeanAbsNorm({self.num_features}) takes floating-point numbers, got {x.dtype}")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        y = wide / (wide.abs().mean(1, keepdim=True) + self.eps)
        return (y * self.weight.view(-1, *[1] * (x.dim() - 2))).to(x.dtype)
