"""Root mean square normalization: the channels at each position by their root mean square."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normzoo.norms._kernels import computed_by
from normzoo.norms._kernels import root_mean_square as kernel
from normzoo.norms._layer import NormLayer, scale_and_shift
from normzoo.norms._masked import takes_mask
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import per_channel
from normzoo.norms.scale_norm import MEND
from normzoo.registry import register


@computed_by(kernel.root_mean_square)
def root_mean_square(x: Tensor, weight: Tensor | None, eps: float, dim: int) -> Tensor:
    """Divide the channels, which are at `dim`, by their root mean square, and scale."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    x_hat = wide * (wide.square().mean(dim, keepdim=True) + eps).rsqrt()
    return (x_hat if weight is None else x_hat * weight).to(x.dtype)


@register(
    "rms_norm",
    aliases={
        "nn.RMSNorm": {"channel_dim": -1},
        "RMSNormFp32": {"channel_dim": -1, "eps": 1e-6},
        "RMSNorm2d": {"eps": 1e-6},
        "RMSNorm2dFp32": {"eps": 1e-6},
    },
    batch_dependent=False,
    paper="Zhang & Sennrich, Root Mean Square Layer Normalization, 2019, arXiv:1910.07467",
    reduces_over="C",
    peers=("torch.nn.RMSNorm", "timm.layers.RmsNorm", "timm.layers.RmsNorm2d"),
)
class RMSNorm(NormLayer, nn.RMSNorm):
    """Divide the channels at each position by their root mean square, or several trailing dimensions together.

        y = x / sqrt(mean(x²) + eps) · (weight_offset + weight),  mean over C

    Layer norm without the mean. An instance of torch's `nn.RMSNorm`, for channels in any dimension. It takes torch's
    kernel where there is a fused one, on CUDA, and elsewhere has a backward of its own, which keeps x alone.

    Libraries differ in eps. The paper writes none. torch takes, by default, the machine epsilon of the dtype that it
    computes in, as here: 1.2e-7, and 2.2e-16 for float64. timm and Llama take 1e-6. These add it within the root, the
    authors' code, which has 1e-8, to the root itself.

    Shape: `(N, C, *)` -> `(N, C, *)`; with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C; or as torch's `normalized_shape` a tuple, the sizes of the trailing dimensions to normalize.
        eps: Added to the mean square, within the root; None for the machine epsilon.
        affine: Whether to learn a `weight` for each channel, or place in the trailing dimensions; there is no bias.
        channel_dim: Where the channels are: 1 for images, -1 for tokens; of no effect with a tuple.
        weight_offset: Added to the weight, which starts at 1 − weight_offset: 1.0 for the weights of Gemma.
        cast_before_weight: Whether to round x / sqrt(…) to the dtype of x before the weight, as Llama does; torch and
            Gemma round once, after it.

    Raises:
        ValueError: If the channels or the trailing dimensions of an input differ, or are of one value.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    shown = ("eps", "affine", "channel_dim", "weight_offset", "cast_before_weight")
    num_features: int | tuple[int, ...]  # type: ignore[assignment]
    weight_offset = 0.0

    def __init__(
        self,
        num_features: int | Sequence[int],
        eps: float | None = None,
        affine: bool = True,
        *,
        channel_dim: int = 1,
        weight_offset: float = 0.0,
        cast_before_weight: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = tuple(num_features) if isinstance(num_features, Sequence) else (num_features,)
        super().__init__(list(shape), eps, affine, device=device, dtype=dtype)
        self.num_features = num_features if isinstance(num_features, int) else shape
        self.affine = affine
        self.channel_dim = channel_dim if isinstance(num_features, int) else -1
        self.cast_before_weight = cast_before_weight
        self.weight_offset = weight_offset
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.constant_(self.weight, 1 - self.weight_offset)

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the channels, or the values in the trailing dimensions."""
        return math.prod(self.normalized_shape)

    @takes_mask
    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        check_count(self, x.shape, MEND, statistic="mean square", outcome="a sign")
        weight: Tensor | None = self.weight
        if weight is not None and self.weight_offset:
            weight = self.weight_offset + weight.to(torch.promote_types(x.dtype, torch.float32))
        if len(self.normalized_shape) > 1:
            flat = x.flatten(-len(self.normalized_shape))
            return self._normalize(flat, None if weight is None else weight.flatten()).view_as(x)
        return self._normalize(x, weight)

    def _normalize(self, x: Tensor, weight: Tensor | None) -> Tensor:
        dim = self.channel_dim
        if self.cast_before_weight and weight is not None:
            return scale_and_shift(self._normalize(x, None), weight, None, dim).to(x.dtype)
        if x.is_cuda and (weight is None or weight.dtype == x.dtype) and x.movedim(dim, -1).is_contiguous():
            return F.rms_norm(x.movedim(dim, -1), [x.shape[dim]], weight, self.eps).movedim(-1, dim)
        wide = torch.promote_types(x.dtype, torch.float32)
        eps = torch.finfo(wide).eps if self.eps is None else self.eps
        return root_mean_square(x, None if weight is None else per_channel(weight, x, dim).to(wide), eps, dim)
