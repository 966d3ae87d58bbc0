"""Batch-channel normalization: by estimates over the batches, then within each sample over groups of channels."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from normzoo.norms._batch_statistics import detached_mean
from normzoo.norms._layer import NormLayer, scale_and_shift
from normzoo.norms._recompute import is_recomputed, state_before
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import commit, newest_weight, snapshot
from normzoo.norms._standardize import centre, group_mean, standardize, wide_per_channel, widen
from normzoo.norms.batch_norm import STATE
from normzoo.norms.group_norm import number_of_groups
from normzoo.registry import register


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
        if x.dim() == 2:
            return self.forward(x.unsqueeze(2)).squeeze(2)
        moving = self.training and self.track_running_stats and x.numel()
        mean, var = self._move_estimates(x) if moving else (self.running_mean, self.running_var)
        mean, var, weight, bias = wide_per_channel(x, mean, var, self.weight, self.bias)
        a, b = (var + self.eps).rsqrt(), 0.0
        if self.affine:
            a, b = weight * a, 0.0 if bias is None else bias
        # z = a (x − μ) + b. With m and v for the mean and the variance of a map of x, that of z has a (m − μ) + b and
        # a² v, from which those of a group follow. So x_hat of each map is all that is saved. m is taken less an offset
        # that the group has in common, which keeps its digits should μ lag far behind.
        positions = tuple(range(2, x.dim()))
        offset = group_mean(detached_mean(x, positions), self.num_groups)
        x_hat, m, v, _ = standardize(widen(x) - offset, positions, eps=1.0)
        deviation = self._centre(a * m + b + self._centre(a * (offset - mean)))  # of a map's mean from its group's
        group_var = group_mean(a.square() * v + deviation.square(), self.num_groups)
        rstd = (group_var + self.eps).rsqrt()
        # y = (a (x − offset − m) + deviation) rstd, where x − offset − m is x_hat sqrt(v + 1)
        scale, shift = rstd * a * (v + 1.0).sqrt(), rstd * deviation
        if self.affine:
            size = self.num_features // self.num_groups
            group_weight = self.group_weight.repeat_interleave(size)
            group_bias = self.group_bias.repeat_interleave(size) if hasattr(self, "group_bias") else None
            scale, shift = scale_and_shift(scale, group_weight, None), scale_and_shift(shift, group_weight, group_bias)
        return (x_hat * scale + shift).to(x.dtype)

    def _centre(self, values: Tensor) -> Tensor:
        return values - group_mean(values, self.num_groups)

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
