"""EvoNorm B0, B1 and B2: divide by the batch's deviation or by the sample's own, whichever is larger."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norms._kernels import computed_by, recomputed
from normzoo.norms._kernels import quotient as kernel
from normzoo.norms._layer import values_over
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import RunningNorm, move_running
from normzoo.norms._standardize import moments, wide_per_channel
from normzoo.norms.evo_norm_s import OUTCOME, PAPER
from normzoo.registry import register

MEND = "use a larger batch or a larger map, or a norm that does not depend on the batch, such as evo_norm_s0"
FACTS: dict[str, Any] = {
    "batch_dependent": True,
    "paper": PAPER,
    "reduces_over": "N, * and *",
    "train_eval_differ": True,
    "state": ("running_var", "num_batches_tracked"),
    "includes_activation": True,
}


@computed_by(kernel.quotient)
def quotient(
    x: Tensor, centre: Tensor, slope: Tensor, shift: Tensor, floor: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Divide x by max(floor, slope · (x − centre) + shift), scale and shift; centre is a constant."""
    wide = x.to(weight.dtype)
    return (wide / torch.maximum(slope * (wide - centre) + shift, floor) * weight + bias).to(x.dtype)


@recomputed
def rms_less_near(near: Tensor, rest: Tensor, var: Tensor, eps: float) -> Tensor:
    """Return rms − near of maps of mean near + rest, with no difference of large numbers that are nearly equal.

    rms² = mean² + var + eps;  rms − centre = (rms² − centre²) / (rms + centre),  centre = max(near, 0)
    """
    centre = near.clamp(min=0)
    over = (near - centre) + rest  # mean − centre
    square = var + eps + over * (2 * centre + over)  # rms² − centre²
    return square / ((square + centre.square()).sqrt() + centre) + (centre - near)


@recomputed
def batch_variance(near: Tensor, rest: Tensor, var: Tensor) -> Tensor:
    """Take the variance over the batch from the mean, near + rest, and the variance of each map."""
    mean = (near - near[:1]) + rest  # less that of one sample, as means may be large beside their differences
    return (var + (mean - mean.mean(0)).square()).mean(0)


class _EvoNormB(RunningNorm):
    """Divide by the batch's standard deviation, or by another divisor that is linear in x, if that is larger.

    Both divisors come from the mean, near + rest, and the variance of each map.
    """

    shown = ("eps", "momentum")
    starts = (("running_var", 1.0),)
    has_v = False
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, True, device, dtype, bias=bias)
        self.eps = eps
        self.momentum = momentum
        self.v = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if self.has_v else None
        self._register_statistics(device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.v is not None:
            nn.init.ones_(self.v)

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the values in the batch's variance; the sample's own may be over a single one."""
        return values_over(self, "N, *", shape)

    def _divisor(self, near: Tensor, rest: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the other divisor, slope · (x − centre) + shift, as its centre, a constant, slope and shift."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        if self.training:
            check_count(self, x.shape, MEND, statistic="variance of the batch", outcome=OUTCOME)
        if x.dim() == 2:
            return self.forward(x.unsqueeze(2)).squeeze(2)
        near, rest, var = moments(x, torch.promote_types(x.dtype, torch.float32))
        weight, bias, batch_var = wide_per_channel(x, self.weight, self.bias, self.running_var)
        bias = torch.zeros_like(weight) if bias is None else bias
        if self.training:
            batch_var = batch_variance(near, rest, var)
            n = self.values_per_statistic(x.shape)
            if n > 0:
                new = (self.running_var, batch_var * (n / (n - 1)))
                move_running(self.num_batches_tracked, self.momentum, new)
        return quotient(x, *self._divisor(near, rest, var), (batch_var + self.eps).sqrt(), weight, bias)


@register(
    "evo_norm_b0",
    aliases={"EvoNorm2dB0": {"eps": 1e-3}, "EvoNormBatch2d": {}},
    **FACTS,
    peers=("timm.layers.EvoNorm2dB0",),
)
class EvoNormB0(_EvoNormB):
    """Divide by the channel's standard deviation over the batch, or by v x plus that of the sample's map, if larger.

        y = x / max(sqrt(batch_var + eps), v x + sqrt(var + eps)) · weight + bias
        batch_var over (N, *), running in evaluation;  var over (*)
        running ← (1 − momentum) · running + momentum · new,  new batch_var unbiased

    The quotient bends as an activation does: it is norm and activation in one, and a model puts no activation after it.
    No mean is subtracted. The authors' code keeps the biased batch_var; unbiased is what the other norms here, and
    timm, keep. timm's `EvoNorm2dB0` has the same weights (`weight, bias, v`), and eps 1e-3.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to both variances, within the roots.
        momentum: Weight of the newest batch in the running variance; None for a cumulative average.
        bias: Whether there is a `bias`.

    Source: Liu, Brock, Simonyan & Le 2020, arXiv:2004.02967, table of EvoNorms; eps from its code.
    """

    has_v = True

    def _divisor(self, near: Tensor, rest: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (v,) = wide_per_channel(near, self.v)
        return near.new_zeros(1), v, (var + self.eps).sqrt()


@register(
    "evo_norm_b1",
    aliases=("EvoNorm2dB1",),
    **FACTS,
    peers=("timm.layers.EvoNorm2dB1",),
)
class EvoNormB1(_EvoNormB):
    """Divide by the channel's standard deviation over the batch, or by x + 1 times the map's root mean square.

        y = x / max(sqrt(batch_var + eps), (x + 1) sqrt(mean(x²) + eps)) · weight + bias

    with batch_var as in `evo_norm_b0`, the mean over (*), and no activation after it. timm's `EvoNorm2dB1` is the same.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to variance and mean square, within the roots.
        momentum: Weight of the newest batch in the running variance; None for a cumulative average.
        bias: Whether there is a `bias`.

    Source: Liu, Brock, Simonyan & Le 2020, arXiv:2004.02967, table of EvoNorms.
    """

    def _divisor(self, near: Tensor, rest: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Not (near + rest)², for whose gradient a sum would be saved beside the two.
        rms = (var + rest.square() + 2 * (near * rest) + near.square() + self.eps).sqrt()
        return near.new_full((1,), -1), rms, near.new_zeros(1)


@register(
    "evo_norm_b2",
    aliases=("EvoNorm2dB2",),
    **FACTS,
    peers=("timm.layers.EvoNorm2dB2",),
)
class EvoNormB2(_EvoNormB):
    """Divide by the channel's standard deviation over the batch, or by the map's root mean square less x, if larger.

        y = x / max(sqrt(batch_var + eps), sqrt(mean(x²) + eps) − x) · weight + bias

    with batch_var as in `evo_norm_b0`, the mean over (*), and no activation after it. timm's `EvoNorm2dB2` is the same.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to variance and mean square, within the roots.
        momentum: Weight of the newest batch in the running variance; None for a cumulative average.
        bias: Whether there is a `bias`.

    Source: Liu, Brock, Simonyan & Le 2020, arXiv:2004.02967, table of EvoNorms.
    """

    def _divisor(self, near: Tensor, rest: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # −(x − near) + (rms − near), as a large mean would leave no digits of rms − x.
        return near, near.new_full((1,), -1), rms_less_near(near, rest, var, self.eps)
