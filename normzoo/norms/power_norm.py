"""Power normalization: running quadratic means, and a backward that runs along with them."""

import torch
from torch import Tensor

from normzoo.norms._kernels.running_gradient import with_gradient
from normzoo.norms._layer import scale_and_shift
from normzoo.norms._recompute import is_recomputed, state_before
from normzoo.norms._refuse import check_input, invalid
from normzoo.norms._running import RunningNorm, commit, gradient_scale, snapshot
from normzoo.norms._standardize import per_channel
from normzoo.registry import register


def running_gradient(
    grad: Tensor, x_hat: Tensor, nu: Tensor, rpsi: Tensor, own: Tensor, m: float
) -> tuple[Tensor, Tensor]:
    """Take a running value, ν, for what the gradient of batch norm takes from the batch.

        ∂l/∂x = (∂l/∂x_hat − ν x_hat) / ψ
        ν ← (1 − m Γ) ν + m Λ,  Γ = mean of x_hat²,  Λ = mean of ∂l/∂x_hat x_hat

    Where `own` is 1, Λ stands for ν in the first line: with ψ the quadratic mean of x itself, that is the derivative.

    Returns:
        ∂l/∂x, and ν for the next backward.
    """
    dims = (0, *range(2, grad.dim()))
    gamma, lam = x_hat.square().mean(dims), (grad * x_hat).mean(dims)
    taken = per_channel(torch.where(own > 0, lam, nu), grad)
    return (grad - taken * x_hat) * per_channel(rpsi, grad), (1 - m * gamma) * nu + m * lam


@with_gradient(running_gradient)
def divide(x: Tensor, rpsi: Tensor, own: Tensor, m: float) -> Tensor:
    """Compute x_hat = x / ψ."""
    return (x * per_channel(rpsi, x)).to(x.dtype)


@register(
    "power_norm",
    aliases=("MaskPowerNorm",),
    batch_dependent=True,
    paper="Shen et al., PowerNorm: Rethinking Batch Normalization in Transformers, 2020, arXiv:2003.07845",
    reduces_over="batches before, N, *",
    train_eval_differ=True,
    state=("running_power", "num_batches_tracked"),
    minimum_count=1,
)
class PowerNorm(RunningNorm):
    """Divide each channel by its quadratic mean over the batches before; no mean is subtracted.

        ψ²_B = mean of x² over (N, *)
        y = x / sqrt(ψ² + eps) · weight + bias
        ψ² ← ψ² + momentum (ψ²_B − ψ²)

    In evaluation ψ² does not move. The gradient is an approximate one, `running_gradient`, with a mean ν that runs from
    batch to batch (`running_product` in the state dict) and that the backward moves; second derivatives are its own.
    For the first `warmup_steps` training batches, and their gradients, the layer uses the batch's own quadratic mean
    (the paper's PN-V) while ψ² and ν settle. Made for transformers, whose batches differ more than those of images.

    Shape: `(N, C, *)` -> `(N, C, *)`; with `channel_dim=-1` `(N, *, C)` -> `(N, *, C)`.

    Args:
        num_features: C.
        eps: Added to the quadratic mean, within the root.
        momentum: Weight of the newest batch in ψ² and ν: 1 − α of the paper.
        affine: Whether to learn `weight` and `bias`.
        warmup_steps: Training batches that are divided by their own quadratic mean.
        channel_dim: Where the channels are: 1 for images, -1 for tokens.
        bias: Whether the affine has a `bias`.

    Attributes:
        loss_scale: What the loss is multiplied by before the backward; None is taken for 1, but refused under autocast
            to float16. Under a gradient scaler set it before each forward: `layer.loss_scale = scaler.get_scale()`.

    Raises:
        ValueError: If a number is out of its range.
        RuntimeError: If gradients are scaled by what the layer is not told, or a forward that it has forgotten is
            recomputed by activation checkpointing.

    Source: Shen et al. 2020, arXiv:2003.07845, section 4 and Algorithm 2. The authors' code differs: it divides the
    gradient by the batch's quadratic mean, not by the running one that divided the input, warms up for 10,000 steps,
    and puts an RMS over groups of channels in front.
    """

    shown = ("eps", "momentum", "affine", "warmup_steps", "channel_dim")
    loss_scale: float | Tensor | None = None
    starts = (("running_power", 1.0), ("running_product", 0.0))
    running_power: Tensor
    running_product: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        warmup_steps: int = 100,
        channel_dim: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 < momentum <= 1 or warmup_steps < 0:
            raise invalid(
                self,
                f"momentum is above 0 and at most 1, and warmup_steps 0 or more; got momentum={momentum}, "
                f"warmup_steps={warmup_steps}",
            )
        super().__init__(num_features, affine, device, dtype, bias=bias)
        self.eps = eps
        self.momentum = momentum
        self.warmup_steps = warmup_steps
        self.channel_dim = channel_dim
        self._register_statistics(device, dtype)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        return self._forward(x.movedim(self.channel_dim, 1)).movedim(1, self.channel_dim)

    def _forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel():
            scale = gradient_scale(self, x)
            rpsi, own = self._statistics(x)
            x_hat = divide(x, rpsi, own, self.momentum, state=[self.running_product], scale=scale)
        else:
            power = self.running_power.to(torch.promote_types(x.dtype, torch.float32))
            x_hat = x * per_channel((power + self.eps).rsqrt(), x)
        return scale_and_shift(x_hat, self.weight, self.bias).to(x.dtype)

    @torch.no_grad()
    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 / ψ, and 1 if it is of this batch or 0 if of those before; then move ψ²."""
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        power = wide.square().mean((0, *range(2, x.dim())))
        before, t = state_before(self, power, self.running_power, self.num_batches_tracked)
        before, own = before.to(wide.dtype), (t < self.warmup_steps).to(wide.dtype)
        rpsi, own = snapshot((torch.where(own > 0, power, before) + self.eps).rsqrt(), own.expand_as(power))
        if not is_recomputed():
            running_power = before + self.momentum * (power - before)
            commit((self.running_power, running_power), (self.num_batches_tracked, t + 1))
        return rpsi, own
