"""Positional normalization: mean and deviation of the channels at each position, kept for a later layer."""

from torch import Tensor

from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import per_channel, standardize
from normzoo.norms.layer_norm_channel import LayerNormChannel
from normzoo.registry import register

MEND = "use more channels, or leave the norm out at this place"


@register(
    "positional_norm",
    aliases=("PONO",),
    batch_dependent=False,
    paper="Li, Wu, Weinberger & Belongie, Positional Normalization, 2019, arXiv:1907.04312",
    reduces_over="C",
    fused=True,
)
class PositionalNorm(LayerNormChannel):
    """Normalize each position of each sample over its channels, and hand out mean and deviation to whom asks.

        y = (x − mean) / std · weight + bias,  mean over C,  std = sqrt(var + eps),  var over C

    As a layer it is `layer_norm_channel`, by the same kernel. What it adds is the use of mean and std, which show the
    structure of an image: `with_moments` returns them, and where an encoder-decoder is to have them again
    `moment_shortcut` puts them back (PONO-MS); a network between the two makes the dynamic shortcut of the paper.

        y, mean, std = encoder_norm.with_moments(x)
        z = moment_shortcut(decoder_conv(...), mean, std)

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Raises:
        ValueError: If the number of channels of an input differs, or is 1.

    Source: Li et al. 2019, arXiv:1907.04312. Its variance is biased, that of the authors' code unbiased.
    """

    def with_moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output, mean and deviation, from the equation; the two have one channel, and gradients of their own."""
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        check_count(self, x.shape, MEND)
        y, mean, var, _ = standardize(x, (self.channel_dim,), self.eps)
        if self.elementwise_affine:
            y = y * per_channel(self.weight, x, self.channel_dim) + per_channel(self.bias, x, self.channel_dim)
        return y.to(x.dtype), mean.to(x.dtype), (var + self.eps).sqrt().to(x.dtype)


def moment_shortcut(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """x · std + mean: mean and deviation of a positional norm as bias and weight at each position of a later layer.

    Source: Li et al. 2019, arXiv:1907.04312.
    """
    return x * std + mean
