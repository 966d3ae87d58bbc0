"""Batch-channel normalization: by estimates over the batches, then within each sample over groups of channels."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from normzoo.norms._kernels import recomputed
from normzoo.norms._layer import NormLayer, scale_and_shift
from normzoo.norms._recompute import is_recomputed, state_before
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import commit, newest_weight, snapshot
from normzoo.norms._standardize import centre, per_channel, standardize, widen
from normzoo.norms.batch_norm import STATE
from normzoo.norms.group_norm import number_of_groups
from normzoo.registry import register


@recomputed
def normalize_twice(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    group_weight: Tensor | None,
    group_bias: Tensor | None,
    groups: int,
    eps: float,
) -> Tensor:
    """Normalize each channel by these statistics, then each group of channels of each sample by its own."""
    mean, rstd = per_channel(mean, x), per_channel((widen(var) + eps).rsqrt(), x)
    z = scale_and_shift((widen(x) - mean) * rstd, weight, bias)
    z_hat, *_ = standardize(z.unflatten(1, (groups, -1)), range(2, x.dim() + 1), eps)
    return scale_and_shift(z_hat, group_weight, group_bias).flatten(1, 2).to(x.dtype)


@register(
    "batch_channel_norm",
    aliases=("BCN", "BCNorm", "BatchChannelNorm2d"),
    batch_dependent=True,
    paper="Qiao et al., Batch-Channel Normalization and Weight Standardization, 2019, arXiv:1903.10520",
    reduces_over="N, * and C/G, *",
    train_eval_differ=False,
    state=STATE,
)
class BatchChannelNorm(NormLayer, _NormBase):
    """Normalize by running estimates of the batch statistics, in training too, and then as group norm does.

        μ ← μ + r (mean(x) − μ),  σ² ← σ² + r (mean((x − μ)²) − σ²)    in training, first; means over (N, *)
        z = (x − μ) / sqrt(σ² + eps) · weight + bias            for each channel; μ and σ² are constants to the gradient
        y = (z − mean) / sqrt(var + eps) · group_weight + group_bias,  mean and var over (C/G, *)

    The μ in the rule of σ² is the one before the step; in evaluation both rest. This is the paper's micro-batch BCN,
    its Algorithm 1, for batches of any size: as the estimates outlast a batch, even one sample will do. On large
    batches the paper takes the batch's own statistics instead, which is `batch_norm` followed by `group_norm`.

    Khaled et al. 2023, arXiv:2312.00596, gave the same name to a learned blend of batch and layer norm: not this.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_groups: G, a divisor of C; the default is that of `group_norm`.
        eps: Added to the variances, within the root.
        momentum: r, the weight of the newest batch in the estimates; None for their cumulative average.
        affine: Whether to learn a `weight` and a `bias` for each channel, and a `group_weight` and a `group_bias` for
            each group.
        channels_per_group: C/G instead of G; larger than C is one group.
        bias: Whether there is a `bias` and a `group_bias` with the weights.

    Raises:
        ValueError: If C does not divide into such groups; the message lists the divisors.

    Source: Qiao et al. 2019, arXiv:1903.10520, Algorithm 1; first in Qiao et al. 2019, arXiv:1911.09738.
    """

    shown = ("eps", "momentum", "affine", "track_running_stats", "num_groups")

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        channels_per_group: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        groups = number_of_groups(self, num_features, num_groups, channels_per_group)
        super().__init__(num_features, eps, momentum, affine, device=device, dtype=dtype)
        self.num_groups = groups
        if not bias:
            self.register_parameter("bias", None)
        if affine:
            self.group_weight = nn.Parameter(torch.ones(groups, device=device, dtype=dtype))
        if affine and bias:
            self.group_bias = nn.Parameter(torch.zeros(groups, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "group_weight"):  # not yet, when the base class is built
            nn.init.ones_(self.group_weight)
        if hasattr(self, "group_bias"):
            nn.init.zeros_(self.group_bias)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        check_count(self, x.shape, "use fewer groups or a larger map, or leave the norm out at this place")
        assert self.running_mean is not None
        assert self.running_var is not None
        moving = self.training and self.track_running_stats and x.numel()
        mean, var = self._move_estimates(x) if moving else snapshot(self.running_mean, self.running_var)
        affine = (self.weight, self.bias, getattr(self, "group_weight", None), getattr(self, "group_bias", None))
        return normalize_twice(x, mean, var, *affine, self.num_groups, self.eps)

    @torch.no_grad()
    def _move_estimates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Move the estimates towards this batch, and return them."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        dims = (0, *range(2, x.dim()))
        centred, batch_mean = centre(x, dims)
        batch_mean, batch_var = batch_mean.flatten(), centred.square().mean(dims)
        buffers = (self.running_mean, self.running_var, self.num_batches_tracked)
        mean, var, t = state_before(self, torch.stack([batch_mean, batch_var]), *buffers)
        mean, var = mean.to(batch_mean.dtype), var.to(batch_mean.dtype)
        r = newest_weight(t + 1, self.momentum)
        shift = batch_mean - mean
        mean, var = snapshot(mean + r * shift, var + r * (batch_var + shift.square() - var))
        if not is_recomputed():
            commit(*zip(buffers, (mean, var, t + 1), strict=True))
        return mean, var
