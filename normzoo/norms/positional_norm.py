"""Positional normalization: mean and deviation of the channels at each position, kept for a later layer."""

import torch
from torch import Tensor

from normzoo.norms._layer import scale_and_shift
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import standardize
from normzoo.norms.layer_norm_channel import LayerNormChannel
from normzoo.norms.scale_norm import MEND
from normzoo.registry import register


@register(
    "positional_norm",
    aliases=("PONO",),
    batch_dependent=False,
    paper="Li, Wu, Weinberger & Belongie, Positional Normalization, 2019, arXiv:1907.04312",
    reduces_over="C",
    fused=True,
)
class PositionalNorm(LayerNormChannel):
    """Normalize each position of each sample over its channels, and return mean and deviation if asked.

        y = (x − mean) / std · weight + bias,  mean over C,  std = sqrt(var + eps),  var over C

    As a layer it is `layer_norm_channel`. What it adds is the use of mean and std, which show the structure of an
    image: `with_moments` returns them, and `moment_shortcut` puts them back in a decoder (PONO-MS); with a network
    between the two it is the paper's dynamic shortcut.

        y, mean, std = encoder_norm.with_moments(x)
        z = moment_shortcut(decoder_conv(...), mean, std)

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.
        bias: Whether the affine has a `bias`.

    Source: Li et al. 2019, arXiv:1907.04312. Its variance is biased, that of the authors' code unbiased.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        channel_dim: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, affine, channel_dim=channel_dim, bias=bias, device=device, dtype=dtype)

    def with_moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute output, mean and deviation from the equation; the latter two have one channel, and gradients."""
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        check_count(self, x.shape, MEND)
        x_hat, mean, var, _ = standardize(x, (self.channel_dim,), self.eps)
        y = scale_and_shift(x_hat, self.weight, self.bias, self.channel_dim)
        return y.to(x.dtype), mean.to(x.dtype), (var + self.eps).sqrt().to(x.dtype)


def moment_shortcut(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Compute x · std + mean, with mean and deviation of a positional norm at each position of a later layer.

    Source: Li et al. 2019, arXiv:1907.04312.
    """
    return x * std + mean
