"""Spatially-adaptive normalization: a scale and a shift for each position, from a map of labels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from normzoo.norms._batch_statistics import standardize_batch
from normzoo.norms._condition import check_condition
from normzoo.norms._kernels import is_watched
from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import NormValueError, check_count, check_input, describe, invalid
from normzoo.norms.batch_norm import MEND
from normzoo.registry import register


class _ConvAroundOne(nn.Conv2d):
    """A convolution whose biases start, and are reset, to 1."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            nn.init.ones_(self.bias)


def modulate(
    x_hat: Tensor,
    labels: Tensor,
    padding: int,
    shared_weight: Tensor,
    shared_bias: Tensor | None,
    gamma_weight: Tensor,
    gamma_bias: Tensor | None,
    beta_weight: Tensor,
    beta_bias: Tensor | None,
) -> Tensor:
    """Scale and shift each position as a map of labels of the same size tells: x_hat · γ(s) + β(s)."""
    h = F.relu(F.conv2d(labels, shared_weight, shared_bias, padding=padding))
    gamma = F.conv2d(h, gamma_weight, gamma_bias, padding=padding)
    beta = F.conv2d(h, beta_weight, beta_bias, padding=padding)
    return x_hat * gamma + beta


@register(
    "spade",
    aliases=("spatially_adaptive_norm",),
    kind="conditional",
    batch_dependent=True,
    paper="Park, Liu, Wang & Zhu, Spatially-Adaptive Normalization, 2019, arXiv:1903.07291",
    reduces_over="N, *",
    train_eval_differ=True,
    state=("running_mean", "running_var", "num_batches_tracked"),
    ranks=(4,),
)
class SPADE(NormLayer, _NormBase):
    """Normalize as batch norm does, then scale and shift each channel at each position as a map of labels says.

        y = (x − mean) / sqrt(var + eps) · γ(s) + β(s),  mean and var over (N, H, W)
        γ(s) = gamma(h),  β(s) = beta(h),  h = relu(shared(s)),  s the map of labels, resized to H × W
        running ← (1 − momentum) · running + momentum · new,  new var unbiased

    `shared`, `gamma` and `beta` are convolutions; h and γ(s) are computed again in the backward rather than kept, by
    their weights alone, so that hooks on these modules are not called. The authors' code multiplies by 1 + γ(s), the
    paper and this layer by γ(s); the biases of `gamma` start at 1, which comes to the same function: to load weights of
    theirs, add 1 to that bias. Their code synchronizes the batch statistics over the devices; here they are local.

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
        ValueError: If the number of channels of the map differs, a statistic of the batch would be over one value, the
            kernel size is even, or there are no labels or hidden channels.

    Source: Park et al. 2019, arXiv:1903.07291, equations 1 to 3 and appendix A.
    """

    shown = ("label_channels", "eps", "momentum", "track_running_stats")

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
        if label_channels < 1 or hidden_features < 1:
            got = f"label_channels={label_channels}, hidden_features={hidden_features}"
            raise invalid(self, f"label_channels and hidden_features are numbers of channels, 1 or more; got {got}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise invalid(self, f"kernel_size is an odd number, so that a map keeps its size; got {kernel_size}")
        super().__init__(num_features, eps, momentum, False, track_running_stats, device=device, dtype=dtype)
        self.label_channels = label_channels
        pad = kernel_size // 2
        self.shared = nn.Conv2d(label_channels, hidden_features, kernel_size, padding=pad, device=device, dtype=dtype)
        self.gamma = _ConvAroundOne(hidden_features, num_features, kernel_size, padding=pad, device=device, dtype=dtype)
        self.beta = nn.Conv2d(hidden_features, num_features, kernel_size, padding=pad, device=device, dtype=dtype)

    def example_condition(self, x: Tensor) -> Tensor:
        """A random one-hot map of the size of `x`."""
        labels = torch.randint(self.label_channels, (x.shape[0], 1, *x.shape[2:]), device=x.device)
        all_labels = torch.arange(self.label_channels, device=x.device).view(-1, 1, 1)
        return (labels == all_labels).to(x.dtype)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        if x.dim() != 4:
            raise NormValueError(f"{describe(self)} takes an input of (N, C, H, W); got the shape {tuple(x.shape)}")
        check_condition(self, condition, (x.shape[0], self.label_channels, None, None), "a map of labels")
        if self.training or self.running_mean is None:
            check_count(self, x.shape, MEND)
        x_hat = standardize_batch(self, x.to(torch.promote_types(x.dtype, torch.float32)))
        labels = F.interpolate(condition.to(self.shared.weight.dtype), size=x.shape[2:], mode="nearest")
        parameters = [p for conv in (self.shared, self.gamma, self.beta) for p in (conv.weight, conv.bias)]
        inputs: tuple[Any, ...] = (x_hat, labels, self.shared.kernel_size[0] // 2, *parameters)
        if is_watched(*inputs) or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return modulate(*inputs).to(x.dtype)
        return checkpoint(modulate, *inputs, use_reentrant=False, preserve_rng_state=False).to(x.dtype)
