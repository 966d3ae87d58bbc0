"""Layer normalization over the channels at each position, as in transformers."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normzoo.norms._layer import NormLayer
from normzoo.norms._masked import takes_mask
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms.layer_norm import PAPER
from normzoo.registry import register


@register(
    "layer_norm_channel",
    aliases={
        "nn.LayerNorm": {"channel_dim": -1},
        "LayerNormFp32": {"channel_dim": -1, "eps": 1e-6},
        "LayerNorm2d": {"eps": 1e-6},
        "LayerNorm2dFp32": {"eps": 1e-6},
        "LN2d": {},
        "channel_layer_norm": {},
        "LayerNormChannels": {},
    },
    batch_dependent=False,
    paper=PAPER,
    reduces_over="C",
    fused=True,
    peers=("torch.nn.LayerNorm", "timm.layers.LayerNorm", "timm.layers.LayerNorm2d"),
)
class LayerNormChannel(NormLayer, nn.LayerNorm):
    """Normalize the channels at each position of each sample, or several trailing dimensions together.

        y = (x − mean) / sqrt(var + eps) · weight + bias,  mean and var over C

    torch's layer and kernel, for channels in any dimension. On `(N, C, *)` the kernel wants the channels last, and the
    output stays so in memory: a channels_last input, which costs no copy, gives a channels_last output.

    Shape: `(N, C, *)` -> `(N, C, *)`; with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C; or as torch's `normalized_shape` a tuple, the sizes of the trailing dimensions to normalize.
        eps: Added to the variance, within the root.
        affine: Whether to learn a `weight` and a `bias` for each channel, or each place in the trailing dimensions.
        channel_dim: Where the channels are: 1 for images, -1 for tokens; of no effect with a tuple.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If the channels or the trailing dimensions of an input differ, or are of one value.

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450; at each position Vaswani et al. 2017, arXiv:1706.03762.
    """

    shown = ("eps", "affine", "channel_dim")
    num_features: int | tuple[int, ...]  # type: ignore[assignment]

    def __init__(
        self,
        num_features: int | Sequence[int],
        eps: float = 1e-5,
        affine: bool = True,
        *,
        channel_dim: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = tuple(num_features) if isinstance(num_features, Sequence) else (num_features,)
        super().__init__(list(shape), eps, affine, bias, device, dtype)
        self.num_features = num_features if isinstance(num_features, int) else shape
        self.affine = affine
        self.channel_dim = channel_dim if isinstance(num_features, int) else -1

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the channels, or the values in the trailing dimensions."""
        return math.prod(self.normalized_shape)

    @takes_mask
    def forward(self, input: Tensor) -> Tensor:
        check_input(self, input, self.num_features, channel_dim=self.channel_dim)
        check_count(self, input.shape, "use more channels, or leave the norm out at this place")
        last = self.channel_dim in (-1, input.dim() - 1)
        x = input if last else input.movedim(self.channel_dim, -1)
        y = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return y if last else y.movedim(-1, self.channel_dim)
