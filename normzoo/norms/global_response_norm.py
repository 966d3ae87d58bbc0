"""Global response normalization: the length of each channel's map against that of all others."""

import torch
from torch import Tensor, nn

from normzoo.norms._layer import AffineNorm, scale_and_shift
from normzoo.norms._refuse import NormValueError, check_input, describe
from normzoo.registry import register


@register(
    "global_response_norm",
    aliases=("GRN",),
    batch_dependent=False,
    paper="Woo et al., ConvNeXt V2, 2023, arXiv:2301.00808",
    reduces_over="*, then C",
    ranks=(3, 4, 5),
    peers=("timm.layers.grn.GlobalResponseNorm",),
    minimum_count=1,
)
class GlobalResponseNorm(AffineNorm):
    """Amplify each channel of a sample by the length of its map, against the mean length over channels.

        length = ‖x‖ over (*);  relative = length / (mean(length) + eps),  mean over C
        y = weight · x · relative + bias + x

    weight and bias start at 0, and so the layer at the identity. It stands within the blocks of a network that has
    layer norms too, to keep channels from learning the same.

    Shape: `(N, C, *)` -> `(N, C, *)`, or with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`; with one dimension of
    positions or more.

    Args:
        num_features: C.
        eps: Added to the mean length.
        channel_dim: Where the channels are: 1 for feature maps, -1 as in the authors' code.
        bias: Whether to learn a `bias`.

    Raises:
        ValueError: If an input has no positions.

    Source: Woo et al. 2023, arXiv:2301.00808, section 4. Its equation 2 divides by the sum of the lengths, its
    algorithm 1 by their mean, as the authors' code and weights do, and as here: C times as much, to the same weight.
    """

    shown = ("eps", "channel_dim")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-6,
        *,
        channel_dim: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, True, device, dtype, bias=bias)
        self.eps = eps
        self.channel_dim = channel_dim
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        if x.dim() < 3:
            raise NormValueError(
                f"{describe(self)} got the shape {tuple(x.shape)}, which has no positions to take a length over: "
                f"put it where there are maps, or use a norm over channels, such as layer_norm"
            )
        positions = [dim for dim in range(1, x.dim()) if dim != self.channel_dim % x.dim()]
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=positions, keepdim=True, dtype=wide)
        relative = length / (length.mean(self.channel_dim, keepdim=True) + self.eps)
        scale = 1 + scale_and_shift(relative, self.weight, None, self.channel_dim)
        return scale_and_shift(x * scale, None, self.bias, self.channel_dim).to(x.dtype)
