"""Group normalization: mean and variance of each sample over groups of channels and the positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normzoo.norms._batch_statistics import detached_mean
from normzoo.norms._layer import NormLayer, scale_and_shift
from normzoo.norms._masked import takes_mask
from normzoo.norms._memory import channels_last, channels_nearest, is_channels_last
from normzoo.norms._refuse import check_count, check_input, invalid
from normzoo.norms._standardize import group_mean, standardize
from normzoo.registry import register

PAPER = "Wu & He, Group Normalization, 2018, arXiv:1803.08494"
DEFAULT_GROUPS = 32
LEAST_CHANNELS = 8  # in a group by default: with two on a 1×1 map a normalized value is only ±1


def divisors(number: int) -> list[int]:
    """List the divisors of a number, from 1 to itself."""
    return [d for d in range(1, number + 1) if number % d == 0]


def number_of_groups(
    layer: nn.Module, num_features: int, num_groups: int | None, channels_per_group: int | None
) -> int:
    """Return the number of groups that a layer's two arguments ask for, or the default: see `GroupNorm`.

    Raises:
        ArgumentValueError: A ValueError, if both are given, one is less than 1, or C does not divide into such groups.
    """
    if num_groups is not None and channels_per_group is not None:
        given = f"num_groups={num_groups} and channels_per_group={channels_per_group}"
        raise invalid(layer, f"{given} are two ways to say one thing: give one of them")
    for name, number in (("num_groups", num_groups), ("channels_per_group", channels_per_group)):
        if number is not None and number < 1:
            raise invalid(layer, f"{name} must be 1 or more; got {number}")
    if channels_per_group is not None and channels_per_group > num_features:
        return 1
    fits = divisors(num_features)
    asked = num_groups if channels_per_group is None else channels_per_group
    if asked is None:
        return max([d for d in fits if d <= DEFAULT_GROUPS and num_features // d >= LEAST_CHANNELS], default=1)
    if asked not in fits:
        groups = f"{asked} groups: num_groups must be one of {fits}"
        of_size = f"groups of {asked}: channels_per_group must be one of {fits}, or larger for a single group"
        said = groups if channels_per_group is None else of_size
        raise invalid(layer, f"{num_features} channels do not divide into {said}")
    return asked if channels_per_group is None else num_features // asked


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Call torch's kernel, in the memory format of `x`, and as exact in each.

    On channels_last the CPU kernel computes mean(x²) − mean(x)², which a large mean spoils: an error of 1e-3 at a mean
    of 100 standard deviations, of 2,000 at one of 5,000. There it is given x less the mean of each group, which changes
    neither output nor gradient, for 1.3 times the time; copies to the other format and back take 1.9.
    """
    if not channels_nearest(x):
        return F.group_norm(x, groups, weight, bias, eps)
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (None if p is None else p.to(wide) for p in (weight, bias))
    mean = group_mean(detached_mean(x, tuple(range(2, x.dim()))), groups)
    y = F.group_norm(x.to(wide) - mean, groups, weight, bias, eps).to(x.dtype)
    # The CPU kernel keeps the format; the CUDA kernel does not.
    return channels_last(y) if is_channels_last(x) else y


@register(
    "group_norm",
    aliases=("GN",),
    batch_dependent=False,
    paper=PAPER,
    reduces_over="C/G, *",
    fused=True,
    peers=("torch.nn.GroupNorm", "timm.layers.GroupNorm"),
)
class GroupNorm(NormLayer, nn.GroupNorm):
    """Normalize each sample over groups of neighbouring channels and the positions.

        y = (x − mean) / sqrt(var + eps) · weight + bias,  mean and var over (C/G, *)

    torch's layer and kernel; the number of channels comes first, and the number of groups has a default.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_groups: G, a divisor of C. By default the largest divisor that is at most 32, the paper's number, and
            leaves eight channels or more in a group: 32 from 256 channels on, 8 for 64, 6 for 48, 1 for 8.
        eps: Added to the variance, within the root.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        channels_per_group: C/G instead of G, the paper's other way (16 there); larger than C is one group.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If C does not divide into such groups; the message lists the divisors.

    Source: Wu & He 2018, arXiv:1803.08494, sections 3.2 and 4.1.
    """

    shown = ("num_groups", "eps", "affine")

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = None,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        channels_per_group: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        groups = number_of_groups(self, num_features, num_groups, channels_per_group)
        super().__init__(groups, num_features, eps, affine, device=device, dtype=dtype)
        self.num_features = num_features
        if not bias:
            self.register_parameter("bias", None)

    def _check(self, x: Tensor) -> None:
        check_input(self, x, self.num_features)
        check_count(self, x.shape, "use fewer groups or a larger map, or leave the norm out at this place")

    @takes_mask
    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


@register(
    "group_norm_scratch",
    batch_dependent=False,
    paper=PAPER,
    reduces_over="C/G, *",
    peers=("torch.nn.GroupNorm", "timm.layers.GroupNorm"),
)
class GroupNormScratch(GroupNorm):
    """Group normalization from the equation: split the channels, standardize each group, scale each channel.

        x: (N, C, *) -> (N, G, C/G, *);  x_hat = (x − mean) / sqrt(var + eps),  mean and var over (C/G, *)
        y = x_hat · weight + bias

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_groups: G, a divisor of C; the default is that of `group_norm`.
        eps: Added to the variance, within the root.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        channels_per_group: C/G instead of G; larger than C is one group.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If C does not divide into such groups; the message lists the divisors.

    Source: Wu & He 2018, arXiv:1803.08494, equations 1 to 3 and 7.
    """

    @takes_mask
    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        grouped = x.unflatten(1, (self.num_groups, -1))
        x_hat, *_ = standardize(grouped, range(2, grouped.dim()), self.eps)
        return scale_and_shift(x_hat.flatten(1, 2), self.weight, self.bias).to(x.dtype)
