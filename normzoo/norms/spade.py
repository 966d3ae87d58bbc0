"""Spatially-adaptive normalization: a scale and a shift for each position, from a map of labels."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from normzoo.norms._batch_statistics import standardize_batch
from normzoo.norms._condition import check_condition
from normzoo.norms._refuse import NormValueError, check_count, check_input, describe
from normzoo.norms.batch_norm import MEND
from normzoo.registry import register


class _ConvAroundOne(nn.Conv2d):
    """A convolution whose biases start, and are reset, to 1."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            nn.init.ones_(self.bias)


@register(
    "spade",
    aliases=("spatially_adaptive_norm",),
    kind="conditional",
    batch_dependent=True,
    paper="Park, Liu, Wang & Zhu, Spatially-Adaptive Normalization, 2019, arXiv:1903.07291",
    reduces_over="N, *",
    train_eval_differ=True,
    state=("running_mean", "running_var", "num_batches_tracked"),
    minimum_count=2,
    ranks=(4,),
)
class SPADE(_NormBase):
    """Normalize as batch norm does, then scale and shift each channel at each position as a map of labels says.

        y = (x − mean) / sqrt(var + eps) · γ(s) + β(s),  mean and var over (N, H, W)
        γ(s) = gamma(h),  β(s) = beta(h),  h = relu(shared(s)),  s the map of labels, resized to H × W
        running ← (1 − momentum) · running + momentum · new,  new var unbiased

    `shared`, `gamma` and `beta` are convolutions. The authors' code multiplies by 1 + γ(s), the paper by γ(s). So does
    this layer, and starts the biases of `gamma` at 1, which comes to the same function: to load weights of theirs, add
    1 to that bias. Their code synchronizes the batch statistics over the devices; here they are local.

    Shape: `(N, C, H, W)` and a condition `(N, label_channels, H', W')` -> `(N, C, H, W)`.

    Args:
        num_features: C.
        label_channels: The channels of a map of labels: the number of labels, where it is one-hot.
        hidden_features: The channels of h; 128 in the paper.
        kernel_size: Of the three convolutions, an odd number.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.

    Raises:
        ValueError: If the number of channels of the input or of the map differs, a statistic of the batch would be
            over one value, or the kernel size is even.

    Source: Park et al. 2019, arXiv:1903.07291, equations 1 to 3 and appendix A.
    """

    def __init__(
        self,
        num_features: int,
        label_channels: int,
        hidden_features: int = 128,
        kernel_size: int = 3,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise NormValueError(f"kernel_size is an odd number, so that a map keeps its size; got {kernel_size}")
        super().__init__(num_features, eps, momentum, False, track_running_stats, device=device, dtype=dtype)
        self.label_channels = label_channels
        pad = kernel_size // 2
        self.shared = nn.Conv2d(label_channels, hidden_features, kernel_size, padding=pad, device=device, dtype=dtype)
        self.gamma = _ConvAroundOne(hidden_features, num_features, kernel_size, padding=pad, device=device, dtype=dtype)
        self.beta = nn.Conv2d(hidden_features, num_features, kernel_size, padding=pad, device=device, dtype=dtype)

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        return shape[0] * math.prod(shape[2:])

    def example_condition(self, x: Tensor) -> Tensor:
        """A random one-hot map of the size of `x`."""
        labels = torch.randint(self.label_channels, (x.shape[0], 1, *x.shape[2:]), device=x.device)
        all_labels = torch.arange(self.label_channels, device=x.device).view(-1, 1, 1)
        return (labels == all_labels).to(x.dtype)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        check_input(self, x.shape, self.num_features)
        if x.dim() != 4:
            raise NormValueError(f"{describe(self)} takes an input of (N, C, H, W); got the shape {tuple(x.shape)}")
        check_condition(self, condition, (x.shape[0], self.label_channels, None, None), "a map of labels")
        if self.training or self.running_mean is None:
            check_count(self, x.shape, self.values_per_statistic(x.shape), MEND)
        x_hat = standardize_batch(self, x.to(torch.promote_types(x.dtype, torch.float32)))
        labels = F.interpolate(condition.to(self.shared.weight.dtype), size=x.shape[2:], mode="nearest")
        h = F.relu(self.shared(labels))
        return (x_hat * self.gamma(h) + self.beta(h)).to(x.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, label_channels={self.label_channels}, eps={self.eps}, momentum={self.momentum}, "
            f"track_running_stats={self.track_running_stats}"
        )
