"""Local response normalization: each channel against its neighbours."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normzoo.norms._kernels import computed_by
from normzoo.norms._kernels import local_response as kernel
from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_input, invalid
from normzoo.registry import register


@computed_by(kernel.local_response)
def local_response(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Divide by (k + alpha Σ x²)^beta, Σ over a window of neighbouring channels."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    around = (*[0, 0] * (x.dim() - 2), size // 2, (size - 1) // 2)
    padded = F.pad(wide.square(), around)
    energy = torch.stack([padded.narrow(1, first, x.shape[1]) for first in range(size)]).sum(0)
    return (wide * (k + alpha * energy).pow(-beta)).to(x.dtype)


@register(
    "local_response_norm",
    aliases={"LRN": {}, "nn.LocalResponseNorm": {"alpha": 1e-4, "k": 1.0}},
    batch_dependent=False,
    paper="Krizhevsky, Sutskever & Hinton, ImageNet Classification with Deep Convolutional Neural Networks, 2012",
    reduces_over="n of C",
    minimum_count=1,
)
class LocalResponseNorm(NormLayer, nn.LocalResponseNorm):
    """Divide each value by a power of the energy of its neighbouring channels at its position: what AlexNet had.

        y = x / (k + alpha / size · Σ x²)^beta,  Σ over the `size` nearest channels, fewer at the ends

    An instance of torch's `nn.LocalResponseNorm`, faster on the CPU, that keeps one activation for its backward instead
    of four. The paper writes alpha Σ x², without the division, and takes n = 5, alpha = 1e-4, beta = 0.75, k = 2. Here
    as in torch and Caffe alpha is divided by the size, so that the paper's is 5e-4, the default; torch's defaults are
    alpha = 1e-4 and k = 1.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        size: The number of channels in a sum, n; the half of it, rounded down, come before the channel itself.
        alpha: Weight of the sum, times `size`.
        beta: The exponent.
        k: What is added to the sum.

    Raises:
        ValueError: If `size` is less than 1.

    Source: Krizhevsky, Sutskever & Hinton 2012, NIPS, section 3.3.
    """

    shown = ("size", "alpha", "beta", "k")

    def __init__(
        self, num_features: int, size: int = 5, alpha: float = 5e-4, beta: float = 0.75, k: float = 2.0
    ) -> None:
        if size < 1:
            raise invalid(self, f"size is a number of channels, 1 or more; got {size}")
        super().__init__(size, alpha, beta, k)
        self.num_features = num_features

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the channels in a sum; near the first and the last channel there are fewer."""
        return min(self.size, self.num_features)

    def forward(self, input: Tensor) -> Tensor:
        check_input(self, input, self.num_features)
        return local_response(input, self.size, self.alpha / self.size, self.beta, self.k)
