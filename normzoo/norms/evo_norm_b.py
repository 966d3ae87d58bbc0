"""EvoNorm B0, B1 and B2: a quotient found by evolution, of the batch's deviation or of the sample's own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normzoo.norm_info import NOT_DYNAMIC
from normzoo.norms._kernels import computed_by, recomputed
from normzoo.norms._kernels import quotient as kernel
from normzoo.norms._layer import AffineNorm, values_over
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import count_from_zero, move_running
from normzoo.norms._standardize import moments, per_channel
from normzoo.norms.evo_norm_s import OUTCOME, PAPER
from normzoo.registry import register

MEND = "use a larger batch or a larger map, or a norm that does not depend on the batch, such as evo_norm_s0"
STATE = ("running_var", "num_batches_tracked")
Line = tuple[Tensor | None, Tensor | None, Tensor]


@computed_by(kernel.quotient)
def quotient(
    x: Tensor,
    slope: Tensor | None,
    near: Tensor | None,
    shift: Tensor,
    floor: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """Divide x by max(floor, slope · x + shift), or without a slope by max(floor, (max(near, 0) − x) + shift)."""
    wide = x.to(weight.dtype)
    # near is a constant, whose difference from x keeps the digits that x has not.
    line = wide * slope if slope is not None else near.clamp(min=0) - wide  # type: ignore[union-attr]
    return (wide / torch.maximum(line + shift, floor) * weight + bias).to(x.dtype)


@recomputed
def excess(near: Tensor, rest: Tensor, var: Tensor, eps: float) -> Tensor:
    """The root mean square of each map less the part of it that its mean makes out, max(near, 0).

        rms − centre = (var + eps + (mean − centre) (mean + centre)) / (rms + centre),  centre = max(near, 0)

    where no difference is one of large numbers that are nearly equal: mean − centre is the rest, or if the mean is
    negative, and centre 0, rms − x is none.
    """
    centre = near.clamp(min=0)
    over = (near - centre) + rest
    square = var + eps + over * (2 * centre + over)  # rms² − centre²
    return square / ((square + centre.square()).sqrt() + centre)


@recomputed
def batch_variance(near: Tensor, rest: Tensor, var: Tensor) -> Tensor:
    """Take the variance over the batch from mean, near + rest, and variance of each map."""
    # Of means that are large beside their differences, to which one sample's is near enough to begin with.
    mean = (near - near[:1]) + rest
    return (var + (mean - mean.mean(0)).square()).mean(0)


class _EvoNormB(AffineNorm):
    """What B0, B1 and B2 share: the batch's deviation below which no divisor falls, and its running variance."""

    shown = ("eps", "momentum")
    v: nn.Parameter | None
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, True, device, dtype)
        self.eps = eps
        self.momentum = momentum
        self.register_parameter("v", None)
        self.register_buffer("running_var", torch.ones(num_features, device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.tensor(0, device=device))
        self.register_load_state_dict_pre_hook(count_from_zero)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        super().reset_parameters()
        if self.v is not None:
            nn.init.ones_(self.v)

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """The number of values in the batch's variance; the sample's own may be over a single one."""
        return values_over(self, "N, *", shape)

    def _line(self, x: Tensor, near: Tensor, rest: Tensor, var: Tensor) -> Line:
        """Slope or near, and shift, of the other divisor: of the mean, near + rest, and the variance of each map."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        n = self.values_per_statistic(x.shape)
        if self.training:
            check_count(self, x.shape, MEND, statistic="variance of the batch", outcome=OUTCOME)
        if x.dim() == 2:
            return self.forward(x.unsqueeze(2)).squeeze(2)
        wide = torch.promote_types(x.dtype, torch.float32)
        near, rest, var = moments(x, wide)
        if self.training:
            batch_var = batch_variance(near, rest, var)
            if n > 0:
                new = (self.running_var, batch_var * (n / (n - 1)))
                move_running(self.num_batches_tracked, self.momentum, new)
        else:
            batch_var = per_channel(self.running_var, x).to(wide)
        weight, bias = (per_channel(parameter, x).to(wide) for parameter in (self.weight, self.bias))
        return quotient(x, *self._line(x, near, rest, var), (batch_var + self.eps).sqrt(), weight, bias)


@register(
    "evo_norm_b0",
    aliases={"EvoNorm2dB0": {"eps": 1e-3}, "EvoNormBatch2d": {}},
    batch_dependent=True,
    paper=PAPER,
    reduces_over="N, * and *",
    train_eval_differ=True,
    state=STATE,
    includes_activation=True,
    peers=("timm.layers.EvoNorm2dB0",),
)
class EvoNormB0(_EvoNormB):
    """Divide by the channel's standard deviation over the batch, or by v x plus that of the sample's map, if larger.

        y = x / max(sqrt(batch_var + eps), v x + sqrt(var + eps)) · weight + bias

    with batch_var over (N, *), running in evaluation, and var over (*). The quotient bends as an activation does: it is
    norm and activation in one, and a model puts no activation after it. No mean is subtracted.

        running ← (1 − momentum) · running + momentum · new,  new batch_var unbiased

    The authors' code keeps the biased batch_var; unbiased is what the other norms here, and timm, keep. timm's
    `EvoNorm2dB0` has the same weights (`weight, bias, v`) and eps 1e-3 where the authors' code has 1e-5, as here.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to both variances, within the roots.
        momentum: Weight of the newest batch in the running variance; None for a cumulative average.

    Raises:
        ValueError: If the number of channels differs, or the variance of the batch would be over one value.

    Source: Liu, Brock, Simonyan & Le 2020, arXiv:2004.02967, table of EvoNorms; eps from its code.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, device=device, dtype=dtype)
        self.v = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))

    def _line(self, x: Tensor, near: Tensor, rest: Tensor, var: Tensor) -> Line:
        assert self.v is not None
        return per_channel(self.v, x).to(var.dtype), None, (var + self.eps).sqrt()


@register(
    "evo_norm_b1",
    aliases=("EvoNorm2dB1",),
    batch_dependent=True,
    paper=PAPER,
    reduces_over="N, * and *",
    train_eval_differ=True,
    state=STATE,
    includes_activation=True,
    peers=("timm.layers.EvoNorm2dB1",),
)
class EvoNormB1(_EvoNormB):
    """Divide by the channel's standard deviation over the batch, or by x + 1 times the map's root mean square.

        y = x / max(sqrt(batch_var + eps), (x + 1) sqrt(mean(x²) + eps)) · weight + bias

    with batch_var over (N, *), running (and then unbiased) in evaluation, and the mean over (*). It is norm and
    activation in one, and a model puts no activation after it. timm's `EvoNorm2dB1` is the same.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the variance and the mean square, within the roots.
        momentum: Weight of the newest batch in the running variance; None for a cumulative average.

    Raises:
        ValueError: If the number of channels differs, or the variance of the batch would be over one value.

    Source: Liu, Brock, Simonyan & Le 2020, arXiv:2004.02967, table of EvoNorms.
    """

    def _line(self, x: Tensor, near: Tensor, rest: Tensor, var: Tensor) -> Line:
        # rest² + 2 near rest + near², which saves these two, that are saved already, and not their sum.
        rms = (var + rest.square() + 2 * (near * rest) + near.square() + self.eps).sqrt()
        return rms, None, rms.view_as(rms)  # torch.compile wants two tensors


@register(
    "evo_norm_b2",
    aliases=("EvoNorm2dB2",),
    batch_dependent=True,
    paper=PAPER,
    reduces_over="N, * and *",
    train_eval_differ=True,
    state=STATE,
    includes_activation=True,
    peers=("timm.layers.EvoNorm2dB2",),
    unsupported=NOT_DYNAMIC,
)
class EvoNormB2(_EvoNormB):
    """Divide by the channel's standard deviation over the batch, or by the map's root mean square less x, if larger.

        y = x / max(sqrt(batch_var + eps), sqrt(mean(x²) + eps) − x) · weight + bias

    with batch_var over (N, *), running (and then unbiased) in evaluation, and the mean over (*). It is norm and
    activation in one, and a model puts no activation after it. timm's `EvoNorm2dB2` is the same.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the variance and the mean square, within the roots.
        momentum: Weight of the newest batch in the running variance; None for a cumulative average.

    Raises:
        ValueError: If the number of channels differs, or the variance of the batch would be over one value.

    Source: Liu, Brock, Simonyan & Le 2020, arXiv:2004.02967, table of EvoNorms.
    """

    def _line(self, x: Tensor, near: Tensor, rest: Tensor, var: Tensor) -> Line:
        return None, near, excess(near, rest, var, self.eps)
