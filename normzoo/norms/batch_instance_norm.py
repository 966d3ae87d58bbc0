"""Batch-instance normalization: batch and instance norm of each channel, blended by a learned gate."""

import torch
from torch import Tensor, nn

from normzoo.norms._batch_statistics import BatchStatisticsNorm, detached_mean, standardize_instances
from normzoo.norms._kernels.projected_clip import projected_clip
from normzoo.norms._layer import scale_and_shift
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import per_channel
from normzoo.norms.batch_norm import STATE
from normzoo.norms.instance_norm import MEND
from normzoo.registry import register


@register(
    "batch_instance_norm",
    aliases=("BIN", "BatchInstanceNorm1d", "BatchInstanceNorm2d", "BatchInstanceNorm3d"),
    batch_dependent=True,
    paper="Nam & Kim, Batch-Instance Normalization, 2018, arXiv:1805.07925",
    reduces_over="N, * and *",
    train_eval_differ=True,
    state=STATE,
    ranks=(3, 4, 5),
)
class BatchInstanceNorm(BatchStatisticsNorm):
    """Blend batch norm and instance norm of each channel by a learned gate, so that style is kept where it helps.

        y = (ρ · x_hat_B + (1 − ρ) · x_hat_I) · weight + bias,  ρ = clip(gate, 0, 1)
        x_hat_B = (x − mean) / sqrt(var + eps),  mean and var over (N, *); the running ones in evaluation
        x_hat_I = (x − mean) / sqrt(var + eps),  mean and var over (*)

    The gates start at 1, which is batch norm. The paper clips each gate after each step of the optimizer; here it is
    clipped in the forward, and outside of [0, 1] only gradients that lead back reach it, so that any optimizer will do.
    The authors' code steps the gates ten times as far as the weights, and does not decay them.

    Shape: `(N, C, *)` -> `(N, C, *)`, with one dimension of positions or more.

    Args:
        num_features: C.
        eps: Added to the variances, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn `weight` and `bias`; `gate` is learned in any case.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.
        bias: Whether the affine has a `bias`.

    Source: Nam & Kim 2018, arXiv:1805.07925, section 3.
    """

    def _complete(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        self.gate = nn.Parameter(torch.ones(self.num_features, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "gate"):  # not yet, when the base class is built
            nn.init.ones_(self.gate)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        check_count(self, x.shape, MEND)
        # Of each channel its own: what is far off, or not finite, stays there, and with running means in its map.
        if self.training or self.running_mean is None:
            offset = detached_mean(x, (0, *range(2, x.dim())))
        else:
            offset = per_channel(self.running_mean, x)
        x_hat, (mean_in, var_in), (mean, var) = standardize_instances(self, x, offset)
        rstd, rho = (var + self.eps).rsqrt(), per_channel(projected_clip(self.gate), x)
        # x_hat_B = x_hat_I · sqrt(var_I + eps) · rstd_B + (mean_I − mean_B) · rstd_B
        scale = rho * (var_in + self.eps).sqrt() * rstd + (1 - rho)
        shift = rho * (mean_in - mean) * rstd
        scale, shift = scale_and_shift(scale, self.weight, None), scale_and_shift(shift, self.weight, self.bias)
        return (x_hat * scale + shift).to(x.dtype)
