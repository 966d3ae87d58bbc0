"""Filter response normalization: each channel of each sample by its root mean square, then a learned threshold."""

import torch
from torch import Tensor, nn

from normzoo.norms._kernels import computed_by
from normzoo.norms._kernels import filter_response as kernel
from normzoo.norms._layer import AffineNorm
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import wide_per_channel
from normzoo.registry import register

MEND = "use a larger map, or learned_eps=True, as the paper does for maps of a single value"


@computed_by(kernel.filter_response)
def filter_response(x: Tensor, weight: Tensor, bias: Tensor, tau: Tensor | None, eps: float | Tensor) -> Tensor:
    """Divide each map by its root mean square, scale, shift and cut off below tau."""
    wide = x.to(weight.dtype)
    nu2 = wide.square().mean(tuple(range(2, x.dim())), keepdim=True)
    x_hat = wide * (nu2 + eps).rsqrt()
    y = weight * x_hat + bias
    if tau is not None:
        y = torch.where(y <= tau, tau, y)  # max(y, tau), whose gradient goes to tau where they are equal; NaN stays
    return y.to(x.dtype)


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

    No mean is subtracted, so that a plain ReLU could be left with all or none of a channel. The threshold tau, learned
    for each channel, takes its place (the thresholded linear unit, TLU), and a model puts no activation after it. One
    that does, such as torchvision's, needs `tlu=False`: max(max(u, tau), 0) is max(u, 0) for tau ≤ 0, so that tau would
    have no effect and no gradient.

    On a map of a single value x / sqrt(x² + eps) is next to its sign. The paper learns eps there: `learned_eps` adds
    |eps_l|, of one scalar eps_l that starts at 1e-4, and then maps of a single value, `(N, C)` too, are accepted.

    timm's `FilterResponseNormTlu2d` has the same weights (`weight, bias, tau`), eps 1e-5 and no learned eps.

    Shape: `(N, C, *)` -> `(N, C, *)`, with one dimension of positions or more.

    Args:
        num_features: C.
        eps: Added to the mean square, within the root.
        tlu: Whether to end with the threshold, which is the activation; without it, put one after the layer.
        learned_eps: Whether to learn what is added to eps.
        bias: Whether there is a `bias`.

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
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, True, device, dtype, bias=bias)
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
        weight, bias, tau = wide_per_channel(x, self.weight, self.bias, self.tau)
        bias = torch.zeros_like(weight) if bias is None else bias
        eps = self.eps if self.eps_l is None else self.eps + self.eps_l.abs().to(weight.dtype)
        return filter_response(x, weight, bias, tau, eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, tlu={self.tau is not None}, learned_eps={self.eps_l is not None}"
