"""Root mean square normalization: the channels at each position by their root mean square."""

from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._reuse import reuse_memory
from normzoo.norms._standardize import per_channel
from normzoo.registry import register


class _RootMeanSquare(torch.autograd.Function):
    """y = x · rstd · weight, rstd = (mean(x²) + eps)^−½ over the n channels, with its chain rule in closed form.

    With g = ∂l/∂y, and sums over channels,

        ∂l/∂weight = Σ_positions g x rstd
        ∂l/∂rstd   = Σ g x weight, and what arrives at the output rstd when a gradient is differentiated
        ∂l/∂x      = rstd g weight − ∂l/∂rstd rstd³ x / n
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, eps: float, dim: int) -> tuple[Tensor, Tensor]:
        reuse = reuse_memory(x, weight)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        square = wide * wide
        rstd = (square.mean(dim, keepdim=True) + eps).rsqrt()
        y = torch.mul(wide, rstd, out=reuse(square))
        if weight is not None:
            y = torch.mul(y, weight, out=reuse(y))
        return y.to(x.dtype), rstd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, ctx.dim = inputs
        ctx.save_for_backward(x, weight, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_rstd: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rstd = ctx.saved_tensors
        reuse = reuse_memory(grad, grad_rstd, x, weight)
        dtype, x, grad = x.dtype, x.to(rstd.dtype), grad.to(rstd.dtype)
        product = grad * x
        product = torch.mul(product, rstd, out=reuse(product))
        grad_weight = None
        if weight is not None:
            grad_weight = product.sum_to_size(weight.shape)
            product = torch.mul(product, weight, out=reuse(product))
        # ∂l/∂rstd rstd / n
        slope = product.mean(ctx.dim, keepdim=True) + grad_rstd * rstd / x.shape[ctx.dim]
        grad_x = torch.mul(grad, rstd, out=reuse(product))
        if weight is not None:
            grad_x = torch.mul(grad_x, weight, out=reuse(grad_x))
        grad_x = torch.addcmul(grad_x, x, slope * rstd.square(), value=-1, out=reuse(grad_x))
        return grad_x.to(dtype), grad_weight, None, None


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
        y, _ = _RootMeanSquare.apply(x, weight, eps, dim)
        return y
