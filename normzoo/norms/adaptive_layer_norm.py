"""Adaptive layer normalization: the scale and the shift of each sample come from a condition."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normzoo.norms._condition import check_condition, per_sample
from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input, invalid
from normzoo.norms._standardize import standardize, widen
from normzoo.registry import register


class _ZeroLinear(nn.Linear):
    """A linear layer that starts, and is reset, to zero."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


@register(
    "adaptive_layer_norm",
    aliases=("AdaLN", "AdaLayerNorm"),
    kind="conditional",
    batch_dependent=False,
    paper="Peebles & Xie, Scalable Diffusion Models with Transformers, 2023, arXiv:2212.09748",
    reduces_over="C",
)
class AdaptiveLayerNorm(NormLayer):
    """Normalize the channels at each position, then scale and shift each sample by functions of a condition vector.

        y = (x − mean) / sqrt(var + eps) · (1 + scale) + shift,  mean and var over C
        shift, scale = A silu(condition) + b

    adaLN of the diffusion transformer, whose condition is the sum of the embeddings of the time step and the class.
    A and b, `modulation`, start at zero, as in its adaLN-Zero, so that the layer starts as a layer norm without affine.
    The gate of adaLN-Zero belongs to the residual block. AdaNorm, of Xu et al. 2019, arXiv:1911.07013, is another norm,
    with a scale computed from the input.

    Shape: `(N, C, *)` and a condition `(N, condition_features)` -> `(N, C, *)`; with `channel_dim=-1`
    `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        condition_features: The length of the vector that conditions a sample.
        eps: Added to the variance, within the root; 1e-6 as in the authors' code.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.

    Raises:
        ValueError: If the condition is not one such vector a sample.

    Source: Peebles & Xie 2023, arXiv:2212.09748, section 3.2.
    """

    shown = ("condition_features", "eps", "channel_dim")

    def __init__(
        self,
        num_features: int,
        condition_features: int,
        eps: float = 1e-6,
        *,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if condition_features < 1:
            raise invalid(self, f"condition_features is the length of a vector, 1 or more; got {condition_features}")
        self.num_features = num_features
        self.condition_features = condition_features
        self.eps = eps
        self.channel_dim = channel_dim
        self.modulation = _ZeroLinear(condition_features, 2 * num_features, device=device, dtype=dtype)

    def example_condition(self, x: Tensor) -> Tensor:
        """A random vector for each sample of `x`."""
        return torch.randn(x.shape[0], self.condition_features, device=x.device, dtype=x.dtype)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        check_condition(self, condition, (x.shape[0], self.condition_features), "a vector for each sample")
        check_count(self, x.shape, "use more channels, or leave the norm out at this place")
        wide = widen(x.movedim(self.channel_dim, 1))
        weight, bias, condition = (t.to(wide.dtype) for t in (self.modulation.weight, self.modulation.bias, condition))
        shift, scale = F.linear(F.silu(condition), weight, bias).chunk(2, dim=1)
        x_hat, *_ = standardize(wide, (1,), self.eps)
        y = x_hat * per_sample(1 + scale, x) + per_sample(shift, x)
        return y.movedim(1, self.channel_dim).to(x.dtype)
