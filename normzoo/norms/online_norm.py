"""Online normalization: statistics that run over the samples one by one, and a backward that follows them."""

import torch
from torch import Tensor

from normzoo.norms._kernels import recomputed
from normzoo.norms._kernels.running_gradient import with_gradient
from normzoo.norms._layer import AffineNorm, scale_and_shift
from normzoo.norms._recompute import is_recomputed, state_before
from normzoo.norms._refuse import check_input, invalid
from normzoo.norms._running import commit, gradient_scale, snapshot
from normzoo.norms._standardize import per_channel
from normzoo.registry import register


def recurrence(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """Compute s_0 = start, s_t = a_t s_{t−1} + b_t along the first dimension: all of s_0 … s_N.

    Two steps in turn are one of the same kind, (a₂ a₁, a₂ b₁ + b₂), so that doubling how far each reaches takes
    log₂ N operations on all samples at once in place of N.
    """
    if len(b) == 0:
        return start.unsqueeze(0)
    b = torch.cat([a[:1] * start + b[:1], b[1:]])
    reach = 1
    while reach < len(b):
        b = torch.cat([b[:reach], a[reach:] * b[:-reach] + b[reach:]])
        a = torch.cat([a[:reach], a[reach:] * a[:-reach]])
        reach *= 2
    return torch.cat([start.unsqueeze(0), b])


def mean_of_positions(x: Tensor) -> Tensor:
    """Average (N, C, *) to (N, C)."""
    return x.flatten(2).mean(2) if x.dim() > 2 else x


def controlled_gradient(
    grad: Tensor, y: Tensor, error_y: Tensor, error_1: Tensor, mean: Tensor, rstd: Tensor, w: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the paper's control process in place of the chain rule.

        x̃'_t = y'_t − w ε_y y_t;       ε_y ← ε_y + mean of x̃'_t y_t
        x'_t = x̃'_t rstd_t − w ε_1;    ε_1 ← ε_1 + mean of x'_t

    with w = 1 − α_b, and means over the positions. Both are recurrences with known factors:

        ε_y ← (1 − w mean(y²)) ε_y + mean(y' y);    ε_1 ← (1 − w) ε_1 + mean(x̃' rstd)

    Returns:
        ∂l/∂x, and the two errors for the next backward.
    """
    errors = recurrence(1 - w * mean_of_positions(y * y), mean_of_positions(grad * y), error_y)
    grad = (grad - w * errors[:-1].view(rstd.shape) * y) * rstd
    drifts = recurrence(torch.full_like(errors[1:], 1 - w), mean_of_positions(grad), error_1)
    return grad - w * drifts[:-1].view(rstd.shape), errors[-1], drifts[-1]


@with_gradient(controlled_gradient)
def normalize(x: Tensor, mean: Tensor, rstd: Tensor, w: float) -> Tensor:
    """Compute y_t = (x_t − mean_t) rstd_t."""
    return ((x - mean) * rstd).to(x.dtype)


@recomputed
def scale_layer(y: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Scale and shift, then divide by the root mean square of each sample."""
    z = scale_and_shift(y.to(torch.promote_types(y.dtype, torch.float32)), weight, bias)
    return (z * (z.square().mean(tuple(range(1, z.dim())), keepdim=True) + eps).rsqrt()).to(y.dtype)


@register(
    "online_norm",
    aliases=("OnlineNorm1d", "OnlineNorm2d", "online_normalization"),
    batch_dependent=True,
    paper="Chiley et al., Online Normalization for Training Neural Networks, 2019, arXiv:1905.05894",
    reduces_over="samples before, * and C, *",
    train_eval_differ=True,
    state=("running_mean", "running_var"),
    minimum_count=1,
)
class OnlineNorm(AffineNorm):
    """Normalize each sample by the statistics of the samples before it, whichever batch they came in.

        y_t = (x_t − μ_{t−1}) / sqrt(σ²_{t−1} + eps)
        μ_t  = μ_{t−1} + m (mean(x_t) − μ_{t−1})
        σ²_t = (1 − m) σ²_{t−1} + m var(x_t) + m (1 − m) (mean(x_t) − μ_{t−1})²,  m = momentum
        z_t = y_t · weight + bias,  divided by the root mean square of all its channels and positions

    Mean and var of x_t are over its positions. The samples of a batch are taken in their order, so that a batch of any
    size gives what its samples would one by one. The last line, layer scaling, bounds the output while the statistics
    lag behind a change of the weights.

    The gradient, `controlled_gradient`, is not the derivative of the output, which depends on all samples before: two
    more running values keep it orthogonal to 1 and to y over time, as the gradient of batch norm is over a batch. The
    backward moves them (`error_y`, `error_1` in the state dict) for the next one: run one backward for each forward, in
    turn. Second derivatives are those of the approximate gradient.

    Shape: `(N, C, *)` -> `(N, C, *)`, N counting samples in the order of time.

    Args:
        num_features: C.
        eps: Added to the variance, within the root, and to the mean square of the layer scaling.
        momentum: Weight of the newest sample in the statistics: 1 − α_f of the paper.
        backward_momentum: Weight of the newest sample in the control of the gradient: 1 − α_b of the paper.
        affine: Whether to learn `weight` and `bias`.
        layer_scaling: Whether to divide by the root mean square of the sample.
        bias: Whether the affine has a `bias`.

    Attributes:
        loss_scale: What the loss is multiplied by before the backward; None is taken for 1, but refused under autocast
            to float16. Under a gradient scaler set it before each forward: `layer.loss_scale = scaler.get_scale()`.

    Raises:
        ValueError: If a momentum is not between 0 and 1.
        RuntimeError: If gradients are scaled by what the layer is not told, or a forward that it has forgotten is
            recomputed by activation checkpointing.

    Source: Chiley et al. 2019, arXiv:1905.05894. That the scaling stands after the affine is taken from the authors'
    code, which by default clips the output to ±5 in its place.
    """

    shown = ("eps", "momentum", "backward_momentum", "affine", "layer_scaling")
    loss_scale: float | Tensor | None = None
    running_mean: Tensor
    running_var: Tensor
    error_y: Tensor
    error_1: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.001,
        backward_momentum: float = 0.01,
        affine: bool = True,
        *,
        layer_scaling: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not (0 < momentum < 1 and 0 < backward_momentum < 1):
            raise invalid(
                self,
                f"the weights of the newest sample are between 0 and 1, such as 0.001; got momentum={momentum}, "
                f"backward_momentum={backward_momentum}",
            )
        super().__init__(num_features, affine, device, dtype, bias=bias)
        self.eps = eps
        self.momentum = momentum
        self.backward_momentum = backward_momentum
        self.layer_scaling = layer_scaling
        for name in ("running_mean", "running_var", "error_y", "error_1"):
            self.register_buffer(name, torch.empty(num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for buffer in (self.running_mean, self.error_y, self.error_1):
            buffer.zero_()
        self.running_var.fill_(1)
        super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        if self.training:
            scale, state = gradient_scale(self, x), [self.error_y, self.error_1]
            mean, rstd = self._statistics(x)
            y = normalize(x, mean, rstd, self.backward_momentum, state=state, scale=scale)
        else:
            var = self.running_var.to(torch.promote_types(x.dtype, torch.float32))
            y = (x.to(var.dtype) - per_channel(self.running_mean, x)) * per_channel((var + self.eps).rsqrt(), x)
        y = y.to(x.dtype)
        if self.layer_scaling:
            return scale_layer(y, self.weight, self.bias, self.eps)
        return scale_and_shift(y, self.weight, self.bias).to(x.dtype)

    @torch.no_grad()
    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and 1 / std for each sample, of those before it; move the running statistics past the last."""
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        m, shape = self.momentum, (*x.shape[:2], *[1] * (x.dim() - 2))
        own = mean_of_positions(wide)
        var = mean_of_positions((wide - own.view(shape)).square())
        keep = torch.full_like(own, 1 - m)
        running_mean, running_var = state_before(self, own.mean(0), self.running_mean, self.running_var)
        means = recurrence(keep, m * own, running_mean.to(wide.dtype))
        deviation = own - means[:-1]
        variances = recurrence(keep, m * var + m * (1 - m) * deviation.square(), running_var.to(wide.dtype))
        mean, rstd = snapshot(means[:-1], (variances[:-1] + self.eps).rsqrt())
        if not is_recomputed():
            commit((self.running_mean, means[-1]), (self.running_var, variances[-1]))
        return mean.view(shape), rstd.view(shape)
