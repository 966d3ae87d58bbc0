"""EvoNorm S0, S1 and S2: a gate and a scale found by evolution, from the values of each sample alone."""

from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norms._kernels import computed_by
from normzoo.norms._kernels import gate as kernel
from normzoo.norms._layer import AffineNorm
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import group_mean, wide_per_channel
from normzoo.norms.group_norm import number_of_groups
from normzoo.registry import register

PAPER = "Liu, Brock, Simonyan & Le, Evolving Normalization-Activation Layers, 2020, arXiv:2004.02967"
FACTS: dict[str, Any] = {
    "batch_dependent": False,
    "paper": PAPER,
    "reduces_over": "C/G, *",
    "includes_activation": True,
}
OUTCOME = "divided by next to nothing, or by itself,"
MEND = "use fewer groups or a larger map, or leave the norm out at this place"


@computed_by(kernel.gate)
def gate(x: Tensor, v: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, centre: bool) -> Tensor:
    """Gate by σ(v x) and divide by the deviation of each group, or without `centre` by its root mean square."""
    wide = deviation = x.to(weight.dtype)
    if centre:
        deviation = deviation - group_mean(deviation, groups)
        deviation = deviation - group_mean(deviation, groups)  # what the last digit of a mean has left
    rstd = (group_mean(deviation.square(), groups) + eps).rsqrt()
    gated = wide * torch.sigmoid(wide if v is None else v * wide)
    return (gated * (rstd * weight) + bias).to(x.dtype)


class _EvoNormS(AffineNorm):
    """Gate and divide; the variants differ in whether they have a v, and in whether a mean is taken out."""

    shown = ("num_groups", "eps")
    has_v = False
    centre = True

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = None,
        eps: float = 1e-5,
        *,
        channels_per_group: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, True, device, dtype, bias=bias)
        self.num_groups = number_of_groups(self, num_features, num_groups, channels_per_group)
        self.eps = eps
        self.v = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if self.has_v else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.v is not None:
            nn.init.ones_(self.v)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        check_count(self, x.shape, MEND, statistic="divisor", outcome=OUTCOME)
        if x.dim() == 2:
            return self.forward(x.unsqueeze(2)).squeeze(2)
        v, weight, bias = wide_per_channel(x, self.v, self.weight, self.bias)
        bias = torch.zeros_like(weight) if bias is None else bias
        return gate(x, v, weight, bias, self.num_groups, self.eps, self.centre)


@register(
    "evo_norm_s0",
    aliases={"EvoNorm2dS0": {"num_groups": 32}, "EvoNormSample2d": {"num_groups": 32}},
    **FACTS,
    peers=("timm.layers.EvoNorm2dS0",),
)
class EvoNormS0(_EvoNormS):
    """Gate the input by the sigmoid of itself times a learned v, and divide by the standard deviation of its group.

        y = x σ(v x) / sqrt(var + eps) · weight + bias,  var over (C/G, *)

    It is norm and activation in one, and a model puts no activation after it. No mean is subtracted. timm's
    `EvoNorm2dS0` has the same weights (`weight, bias, v`), but always 32 groups, and refuses other channels.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_groups: G, a divisor of C. The paper has 32, and its code the largest divisor below; here, as for
            `group_norm`, the largest that is at most 32 and leaves eight channels or more in a group.
        eps: Added to the variance, within the root.
        channels_per_group: C/G instead of G; larger than C is one group.
        bias: Whether there is a `bias`.

    Raises:
        ValueError: If C does not divide into such groups.

    Source: Liu, Brock, Simonyan & Le 2020, arXiv:2004.02967, table of EvoNorms; eps from its code.
    """

    has_v = True


@register(
    "evo_norm_s1",
    aliases={"EvoNorm2dS1": {"num_groups": 32}},
    **FACTS,
    peers=("timm.layers.EvoNorm2dS1",),
)
class EvoNormS1(_EvoNormS):
    """Gate the input by its sigmoid, and divide by the standard deviation of its group: S0 with v = 1.

        y = x σ(x) / sqrt(var + eps) · weight + bias,  var over (C/G, *)

    timm's `EvoNorm2dS1` has the same weights, but always 32 groups, and can swap the gate for another activation.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_groups: G, a divisor of C; the default is that of `group_norm`.
        eps: Added to the variance, within the root.
        channels_per_group: C/G instead of G; larger than C is one group.
        bias: Whether there is a `bias`.

    Raises:
        ValueError: If C does not divide into such groups.

    Source: Liu, Brock, Simonyan & Le 2020, arXiv:2004.02967, table of EvoNorms.
    """


@register(
    "evo_norm_s2",
    aliases={"EvoNorm2dS2": {"num_groups": 32}},
    **FACTS,
    peers=("timm.layers.EvoNorm2dS2",),
)
class EvoNormS2(_EvoNormS):
    """Gate the input by its sigmoid, and divide by the root mean square of its group: S1 without the mean.

        y = x σ(x) / sqrt(mean(x²) + eps) · weight + bias,  mean over (C/G, *)

    timm's `EvoNorm2dS2` has the same weights, but always 32 groups, and can swap the gate for another activation.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_groups: G, a divisor of C; the default is that of `group_norm`.
        eps: Added to the mean square, within the root.
        channels_per_group: C/G instead of G; larger than C is one group.
        bias: Whether there is a `bias`.

    Raises:
        ValueError: If C does not divide into such groups.

    Source: Liu, Brock, Simonyan & Le 2020, arXiv:2004.02967, table of EvoNorms.
    """

    centre = False
