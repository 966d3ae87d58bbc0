"""Batch-channel normalization: by estimates over the batches, then within each sample over groups of channels."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from normzoo.norms._batch_statistics import detached_mean
from normzoo.norms._layer import NormLayer
from normzoo.norms._recompute import is_recomputed, state_before
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import commit, newest_weight, snapshot
from normzoo.norms._standardize import centre, group_mean, moments, per_channel
from normzoo.norms.group_norm import number_of_groups
from normzoo.registry import register


@register(
    "batch_channel_norm",
    aliases=("BCN", "BCNorm", "BatchChannelNorm2d"),
    batch_dependent=True,
    paper="Qiao et al., Batch-Channel Normalization and Weight Standardization, 2019, arXiv:1903.10520",
    reduces_over="N, * and C/G, *",
    train_eval_differ=False,
    state=("running_mean", "running_var", "num_batches_tracked"),
)
class BatchChannelNorm(NormLayer, _NormBase):
    """Normalize by running estimates of the batch statistics, in training too, and then as group norm does.

        training first moves the estimates:  μ ← μ + r (mean(x) − μ),  σ² ← σ² + r (mean((x − μ)²) − σ²)
        z = (x − μ) / sqrt(σ² + eps) · weight + bias            for each channel; μ and σ² are constants to the gradient
        y = (z − mean) / sqrt(var + eps) · group_weight + group_bias,  mean and var over (C/G, *)

    The means over x are over (N, *), and the μ in σ²'s is the one before the step. This is the paper's micro-batch
    BCN, its Algorithm 1, for batches of any size: as the estimates outlast a batch, even one sample will do. On large
    batches the paper puts the batch's own statistics in their place, which is `batch_norm` followed by `group_norm`.
    Training and evaluation differ in that the estimates move, not in what is done with them.

    Khaled et al. 2023, arXiv:2312.00596, gave the same name to a learned blend of batch and layer norm, which this is
    not.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_groups: G, a divisor of C; the default is that of `group_norm`.
        eps: Added to the variances, within the root.
        momentum: r, the weight of the newest batch in the estimates; None for their cumulative average.
        affine: Whether to learn a `weight` and a `bias` for each channel, and a `group_weight` and a `group_bias` for
            each group.
        channels_per_group: C/G instead of G; larger than C is one group.

    Raises:
        ValueError: If C does not divide into such groups (the message lists the divisors), the number of channels of
            an input differs, or a group would be of one value.

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        groups = number_of_groups(self, num_features, num_groups, channels_per_group)
        super().__init__(num_features, eps, momentum, affine, device=device, dtype=dtype)
        self.num_groups = groups
        if affine:
            self.group_weight = nn.Parameter(torch.ones(groups, device=device, dtype=dtype))
            self.group_bias = nn.Parameter(torch.zeros(groups, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "group_bias"):  # not yet, when the base class is built
            nn.init.ones_(self.group_weight)
            nn.init.zeros_(self.group_bias)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        mend = "use fewer groups or a larger map, or leave the norm out at this place"
        check_count(self, x.shape, mend)
        if x.dim() == 2:
            return self.forward(x.unsqueeze(2)).squeeze(2)
        assert self.running_mean is not None
        assert self.running_var is not None
        moving = self.training and self.track_running_stats and x.numel()
        mean, var = self._move_estimates(x) if moving else (self.running_mean, self.running_var)
        wide = torch.promote_types(x.dtype, torch.float32)
        u = (x.to(wide) - per_channel(mean, x)) * per_channel((var.to(wide) + self.eps).rsqrt(), x)
        return self._normalize_groups(u).to(x.dtype)

    def _normalize_groups(self, u: Tensor) -> Tensor:
        """Of z = weight · u + bias the x_hat over each group, scaled and shifted; u alone is saved for the gradient.

        Mean and variance of z come from those of u in each channel, as z is linear in it:

            mean = mean over C/G of (weight mean_u + bias)
            var  = mean over C/G of (weight² var_u + (weight mean_u + bias − mean)²)
        """
        # Less numbers near the mean of each group and, of what is left, of each channel: with them a large mean and its
        # last digits are gone from u. That of the group is part of a deviation only where the weights differ.
        dims = tuple(range(2, u.dim()))
        common = group_mean(detached_mean(u, dims), self.num_groups)
        u = u - common
        near = detached_mean(u, dims)
        u = u - near
        _, mean, var = moments(u, torch.promote_types(u.dtype, torch.float32))
        weight, bias = (per_channel(v, u) for v in (self.weight, self.bias)) if self.affine else (1.0, 0.0)

        def of_groups(values: Tensor) -> Tensor:
            return group_mean(values, self.num_groups)

        own = weight * (near + mean) + bias
        deviation = own - of_groups(own)
        if isinstance(weight, Tensor):
            deviation = deviation + common * (weight - of_groups(weight[None]))
        rstd = (of_groups(weight * weight * var + deviation.square()) + self.eps).rsqrt()
        scale, shift = weight * rstd, (deviation - weight * mean) * rstd
        if self.affine:
            size = self.num_features // self.num_groups
            gain, offset = (per_channel(v.repeat_interleave(size), u) for v in (self.group_weight, self.group_bias))
            scale, shift = scale * gain, shift * gain + offset
        return u * scale + shift

    @torch.no_grad()
    def _move_estimates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The estimates with this batch in them."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        dims = (0, *range(2, x.dim()))
        centred, batch_mean = centre(x, dims)
        batch_mean, batch_var = batch_mean.flatten(), centred.square().mean(dims)
        buffers = (self.running_mean, self.running_var, self.num_batches_tracked)
        mean, var, t = state_before(self, torch.stack([batch_mean, batch_var]), *buffers)
        mean, var = mean.to(batch_mean.dtype), var.to(batch_mean.dtype)
        w = newest_weight(t + 1, self.momentum)
        w = w.to(mean.dtype) if isinstance(w, Tensor) else w
        shift = batch_mean - mean
        mean, var = snapshot(mean + w * shift, var + w * (batch_var + shift.square() - var))
        if not is_recomputed():
            commit(*zip(buffers, (mean, var, t + 1), strict=True))
        return mean, var
