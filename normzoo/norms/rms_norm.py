"""Root mean square normalization: the channels at each position by their root mean square."""

import torch
from torch import Tensor, nn

from normzoo.norms._kernels import computed_by
from normzoo.norms._kernels import root_mean_square as kernel
from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import per_channel
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
    """Divide the channels at each position of each sample by their root mean square: layer norm without the mean.

        y = x / sqrt(mean(x²) + eps) · weight,  mean over C

    An instance of torch's `nn.RMSNorm`, for channels in any dimension. It takes torch's kernel where there is a fused
    one, on CUDA, and elsewhere has a backward of its own, which keeps x alone.

    Libraries differ in eps. The paper writes none. torch takes, by default, the machine epsilon of the dtype that it
    computes in, as here: 1.2e-7, and 2.2e-16 for float64. timm and LLaMA take 1e-6. These add it within the root, the
    authors' code, which has 1e-8, to the root itself.

    Shape: `(N, C, *)` -> `(N, C, *)`; with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        eps: Added to the mean square, within the root; None for the machine epsilon.
        affine: Whether to learn a `weight` for each channel; there is no bias.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Raises:
        ValueError: If the number of channels of an input differs, or is 1.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    shown = ("eps", "affine", "channel_dim")

    def __init__(
        self,
        num_features: int,
        eps: float | None = None,
        affine: bool = True,
        *,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, affine, device=device, dtype=dtype)
        self.num_features = num_features
        self.affine = affine
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        mend = "use more channels, or leave the norm out at this place"
        check_count(self, x.shape, mend, statistic="mean square", outcome="a sign")
        dim, wide = self.channel_dim, torch.promote_types(x.dtype, torch.float32)
        kernel = x.is_cuda and (self.weight is None or self.weight.dtype == x.dtype)
        if kernel and x.movedim(dim, -1).is_contiguous():
            return super().forward(x.movedim(dim, -1)).movedim(-1, dim)
        eps = torch.finfo(wide).eps if self.eps is None else self.eps
        weight = None if self.weight is None else per_channel(self.weight, x, dim).to(wide)
        return root_mean_square(x, weight, eps, dim)
