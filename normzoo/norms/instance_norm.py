"""Instance normalization: mean and variance of each channel of each sample over the positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normzoo.norms._layer import NormLayer, scale_and_shift
from normzoo.norms._masked import takes_mask
from normzoo.norms._memory import channels_last, channels_nearest, is_channels_last
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import update_running
from normzoo.norms._standardize import standardize
from normzoo.norms.group_norm import group_norm
from normzoo.registry import register

PAPER = "Ulyanov, Vedaldi & Lempitsky, Instance Normalization, 2016, arXiv:1607.08022"
MEND = "use a larger map, or a norm that averages over channels too, such as layer_norm or group_norm"


@register(
    "instance_norm",
    aliases={
        **{name: {} for name in ("IN", "IN1d", "IN2d", "IN3d")},
        **{f"InstanceNorm{rank}d": {"affine": False} for rank in (1, 2, 3)},
    },
    batch_dependent=False,
    paper=PAPER,
    reduces_over="*",
    ranks=(3, 4, 5),
    fused=True,
    peers=("torch.nn.InstanceNorm1d", "torch.nn.InstanceNorm2d", "torch.nn.InstanceNorm3d"),
)
class InstanceNorm(NormLayer, nn.InstanceNorm2d):
    """Normalize each channel of each sample over its positions.

        y = (x − mean) / sqrt(var + eps) · weight + bias,  mean and var over (*)

    An instance of torch's `nn.InstanceNorm2d` for any number of positions' dimensions that, unlike torch's, learns
    `weight` and `bias` by default. It runs on the kernel of group norm with C groups, which is the faster one.

    Shape: `(N, C, *)` -> `(N, C, *)`, with one dimension of positions or more.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics, if there are; None for a cumulative average.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        track_running_stats: Whether to keep, as torch can, means over samples of mean and unbiased variance, and
            normalize with these in evaluation.
        bias: Whether the affine has a `bias`.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022.
    """

    shown = ("eps", "momentum", "affine", "track_running_stats")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, 0.1, affine, track_running_stats, device=device, dtype=dtype)
        self.momentum = momentum  # torch's signature leaves None out, which its base class takes
        if not bias:
            self.register_parameter("bias", None)

    @property
    def uses_running_statistics(self) -> bool:
        """Whether the running statistics normalize, and not those of the instance."""
        return self.running_mean is not None and self.track_running_stats and not self.training

    def _check_input_dim(self, input: Tensor) -> None:
        check_input(self, input, self.num_features)
        if not self.uses_running_statistics:
            check_count(self, input.shape, MEND)

    @takes_mask
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        # The kernel with running statistics has no output for no samples.
        if self.running_mean is not None and self.track_running_stats and input.numel():
            y = self._forward_tracked(input)
        else:
            # With one channel to a group the kernel is several times slower on channels_last than with both copies.
            x = input.contiguous() if channels_nearest(input) else input
            y = group_norm(x, self.num_features, self.weight, self.bias, self.eps)
        return channels_last(y) if is_channels_last(input) else y

    def _forward_tracked(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        if not self.training:
            # By instance_norm's own kernel, older versions of torch write the running statistics in evaluation too.
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # With momentum 1 the kernel writes the batch's own mean and unbiased variance, of which float16 may write less.
        wide = torch.promote_types(self.running_mean.dtype, torch.float32)
        mean, var = (x.new_zeros(self.num_features, dtype=wide) for _ in range(2))
        weight, bias = (None if p is None else p.to(wide) for p in (self.weight, self.bias))
        y = F.instance_norm(x, mean, var, weight, bias, use_input_stats=True, momentum=1.0, eps=self.eps)
        update_running(self, mean, var)
        return y


@register(
    "instance_norm_scratch",
    batch_dependent=False,
    paper=PAPER,
    reduces_over="*",
    ranks=(3, 4, 5),
    peers=("torch.nn.InstanceNorm1d", "torch.nn.InstanceNorm2d", "torch.nn.InstanceNorm3d"),
)
class InstanceNormScratch(InstanceNorm):
    """Instance normalization from the equation: standardize each channel of each sample, scale each channel.

        x_hat = (x − mean) / sqrt(var + eps),  mean and var over (*)
        y = x_hat · weight + bias

    Shape: `(N, C, *)` -> `(N, C, *)`, with one dimension of positions or more.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        bias: Whether the affine has a `bias`.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, affine=affine, bias=bias, device=device, dtype=dtype)

    @takes_mask
    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        x_hat, *_ = standardize(x, range(2, x.dim()), self.eps)
        return scale_and_shift(x_hat, self.weight, self.bias).to(x.dtype)
