"""Filter response normalization: each channel of each sample by its root mean square, then a learned threshold."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norms._layer import AffineNorm
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._reuse import reuse_memory
from normzoo.norms._standardize import per_channel
from normzoo.registry import register

MEND = "use a larger map, or learned_eps=True, as the paper does for maps of a single value"


class _FilterResponse(torch.autograd.Function):
    """y = max(u, tau), u = weight · x · rstd + bias, rstd = (mean(x²) + eps)^−½, with its chain rule in closed form.

    With g = ∂l/∂y where u > tau and 0 elsewhere, and sums over the n values of a map,

        ∂l/∂bias = Σ g;  ∂l/∂tau = Σ ∂l/∂y − Σ g;  ∂l/∂weight = rstd Σ g x
        ∂l/∂rstd = weight Σ g x, and what arrives at the output rstd when a gradient is differentiated
        ∂l/∂x    = weight rstd g − ∂l/∂rstd rstd³ x / n
        ∂l/∂eps  = −½ ∂l/∂rstd rstd³

    u is computed again rather than kept: x is all that is saved.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, tau: Tensor | None, eps: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        reuse = reuse_memory(x, weight, bias, tau, eps if isinstance(eps, Tensor) else None)
        wide = x.to(weight.dtype)
        square = wide * wide
        rstd = (square.mean(tuple(range(2, x.dim())), keepdim=True) + eps).rsqrt()
        y = torch.mul(wide, rstd * weight, out=reuse(square))
        y = torch.add(y, bias, out=reuse(y))
        if tau is not None:
            y = torch.maximum(y, tau, out=reuse(y))
        return y.to(x.dtype), rstd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, tau, _ = inputs
        ctx.save_for_backward(x, weight, bias, tau, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_rstd: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, tau, rstd = ctx.saved_tensors
        reuse = reuse_memory(grad, grad_rstd, x, weight, bias, tau)
        dtype, x, g = x.dtype, x.to(rstd.dtype), grad.to(rstd.dtype)
        scale = rstd * weight
        grad_tau = grad_eps = None
        if tau is not None:
            u = x * scale
            above = torch.gt(u, tau - bias, out=reuse(u))
            grad_tau = g.sum_to_size(tau.shape)
            g = torch.mul(g, above, out=reuse(above))
            grad_tau = grad_tau - g.sum_to_size(tau.shape)
        product = g * x
        dot = product.sum(tuple(range(2, x.dim())), keepdim=True)
        slope = -(grad_rstd + weight * dot) * rstd.pow(3)
        if ctx.needs_input_grad[4]:
            grad_eps = slope.sum() / 2
        grad_x = torch.mul(g, scale, out=reuse(product))
        grad_x = torch.addcmul(grad_x, x, slope / math.prod(x.shape[2:]), out=reuse(grad_x))
        return grad_x.to(dtype), (rstd * dot).sum_to_size(weight.shape), g.sum_to_size(bias.shape), grad_tau, grad_eps


@register(
    "filter_response_norm",
    aliases={"FRN": {}, "FRNTLU": {"eps": 1e-5}, "FilterResponseNorm2d": {}, "FilterResponseNormTlu2d": {"eps": 1e-5}},
    batch_dependent=False,
    paper="Singh & Krishnan, Filter Response Normalization Layer, 2020, arXiv:1911.09737",
    reduces_over="*",
    ranks=(3, 4, 5),
    includes_activation=True,
    peers=("timm.layers.FilterResponseNormTlu2d",),
)
class FilterResponseNorm(AffineNorm):
    """Divide each channel of each sample by its root mean square, and cut the result off at a learned threshold.

        nu² = mean(x²) over (*)
        y = max(x / sqrt(nu² + eps) · weight + bias, tau)

    No mean is subtracted, so that a plain ReLU could be left with all or none of a channel: the threshold tau, which is
    learned for each channel, makes up for it (the thresholded linear unit, TLU), and stands in the place of the ReLU. A
    model puts no activation after it, and the blocks of ours and of timm's norm-and-activation models put none. One
    that does, such as torchvision's, wants `tlu=False`: as max(max(u, tau), 0) is max(u, 0) for a tau of 0 or less, the
    threshold would change nothing there, and, having no gradient, stay where it begins.

    On a map of a single value x / sqrt(x² + eps) is next to its sign. The paper learns eps there: with `learned_eps`
    it is eps + |eps_l|, of one scalar eps_l that starts at 1e-4, and maps of a single value, `(N, C)` too, are taken.

    timm's `FilterResponseNormTlu2d` has the same weights (`weight, bias, tau`), eps 1e-5 and no learned eps.

    Shape: `(N, C, *)` -> `(N, C, *)`, with one dimension of positions or more.

    Args:
        num_features: C.
        eps: Added to the mean square, within the root.
        tlu: Whether to end with the threshold, which is the activation; without it one is to follow.
        learned_eps: Whether to learn what is added to eps.

    Raises:
        ValueError: If the number of channels of an input differs, or its map is of a single value and eps is not
            learned.

    Source: Singh & Krishnan 2020, arXiv:1911.09737, section 3.
    """

    activation_keyword = "tlu"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-6,
        *,
        tlu: bool = True,
        learned_eps: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, True, device, dtype)
        self.eps = eps
        self.includes_activation = tlu
        self.tau = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if tlu else None
        self.eps_l = nn.Parameter(torch.empty((), device=device, dtype=dtype)) if learned_eps else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.tau is not None:
            nn.init.zeros_(self.tau)
        if self.eps_l is not None:
            nn.init.constant_(self.eps_l, 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        if self.eps_l is None:
            check_count(self, x.shape, MEND, statistic="mean square", outcome="a sign, scaled and shifted,")
        elif x.dim() == 2:
            return self.forward(x.unsqueeze(2)).squeeze(2)
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = (per_channel(parameter, x).to(wide) for parameter in (self.weight, self.bias))
        tau = None if self.tau is None else per_channel(self.tau, x).to(wide)
        eps = self.eps if self.eps_l is None else self.eps + self.eps_l.abs().to(wide)
        y, _ = _FilterResponse.apply(x, weight, bias, tau, eps)
        return y

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, tlu={self.tau is not None}, learned_eps={self.eps_l is not None}"
