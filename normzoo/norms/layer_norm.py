"""Layer normalization: mean and variance of each sample over its channels and positions."""

import torch
from torch import Tensor, nn

from normzoo.norms._layer import NormLayer, scale_and_shift
from normzoo.norms._masked import takes_mask
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import standardize
from normzoo.norms.group_norm import group_norm
from normzoo.registry import register

PAPER = "Ba, Kiros & Hinton, Layer Normalization, 2016, arXiv:1607.06450"


@register(
    "layer_norm",
    aliases=("LN", "GroupNorm1"),
    batch_dependent=False,
    paper=PAPER,
    reduces_over="C, *",
    fused=True,
    peers=("torch.nn.GroupNorm", "timm.layers.GroupNorm1"),
)
class LayerNorm(NormLayer, nn.GroupNorm):
    """Normalize each sample over all its channels and positions.

        y = (x − mean) / sqrt(var + eps) · weight + bias,  mean and var over (C, *)

    The layer norm of convolutional networks, as in the group norm paper: torch's group norm with one group. Over the
    channels at each position, as in transformers, ConvNeXt and detectron2's LN, it is `layer_norm_channel`, which takes
    torch's `normalized_shape` too; on `(N, C)` the two are the same.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        bias: Whether the affine has a `bias`.

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450, equation 3; on images Wu & He 2018, arXiv:1803.08494.
    """

    shown = ("eps", "affine")

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
        super().__init__(1, num_features, eps, affine, device=device, dtype=dtype)
        self.num_features = num_features
        if not bias:
            self.register_parameter("bias", None)

    def _check(self, x: Tensor) -> None:
        check_input(self, x, self.num_features)
        check_count(self, x.shape, "use more channels or a larger map, or leave the norm out at this place")

    @takes_mask
    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        return group_norm(input, 1, self.weight, self.bias, self.eps)


@register(
    "layer_norm_scratch",
    batch_dependent=False,
    paper=PAPER,
    reduces_over="C, *",
    peers=("torch.nn.GroupNorm", "timm.layers.GroupNorm1"),
)
class LayerNormScratch(LayerNorm):
    """Layer normalization from the equation: standardize each sample, scale each channel.

        x_hat = (x − mean) / sqrt(var + eps),  mean and var over (C, *)
        y = x_hat · weight + bias

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        bias: Whether the affine has a `bias`.

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450, equation 3.
    """

    @takes_mask
    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        x_hat, *_ = standardize(x, range(1, x.dim()), self.eps)
        return scale_and_shift(x_hat, self.weight, self.bias).to(x.dtype)
