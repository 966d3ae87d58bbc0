"""Moving average batch normalization: second moments and gradient statistics averaged over the last batches."""

import torch
from torch import Tensor

from normzoo.norms._kernels.running_gradient import with_gradient
from normzoo.norms._layer import scale_and_shift
from normzoo.norms._recompute import is_recomputed, state_before
from normzoo.norms._refuse import check_input, invalid
from normzoo.norms._running import RunningNorm, commit, gradient_scale, snapshot
from normzoo.norms._standardize import per_channel
from normzoo.registry import register


def averaged_gradient(
    grad: Tensor, z: Tensor, window: Tensor, rchi: Tensor, share: Tensor, slot: Tensor
) -> tuple[Tensor, Tensor]:
    """Take an average over the last batches, Ψ, for what the gradient of batch norm takes from the batch.

        ∂l/∂x = (∂l/∂z − Ψ z) / χ,  Ψ = Σ share · Ψ_B over the window,  Ψ_B = mean of ∂l/∂z z

    Returns:
        ∂l/∂x, and the window with Ψ_B of this batch at `slot`.
    """
    window = replace(window, slot, (grad * z).mean((0, *range(2, grad.dim()))))
    psi = average(window, share)
    return (grad - per_channel(psi, grad) * z) * per_channel(rchi, grad), window


@with_gradient(averaged_gradient)
def divide(x: Tensor, rchi: Tensor, share: Tensor, slot: Tensor) -> Tensor:
    """Compute z = x / χ."""
    return (x * per_channel(rchi, x)).to(x.dtype)


def replace(window: Tensor, slot: Tensor, new: Tensor) -> Tensor:
    """Put the newest batch's row into the window, where `slot` is 1."""
    return torch.where(slot.unsqueeze(1) > 0, new, window)


def average(window: Tensor, share: Tensor) -> Tensor:
    """Average the rows of the window, each with its share."""
    return (share.unsqueeze(1) * window).sum(0)


@register(
    "moving_average_batch_norm",
    aliases=("MABN", "MABN2d"),
    batch_dependent=True,
    paper="Yan et al., Towards Stabilizing Batch Statistics in Backward Propagation of Batch Normalization, 2020, "
    "arXiv:2001.06838",
    reduces_over="last batches, N, *",
    train_eval_differ=True,
    state=("running_moment", "window_moment", "num_batches_tracked"),
    minimum_count=1,
)
class MovingAverageBatchNorm(RunningNorm):
    """Divide each channel by its root mean square over the last batches, with a gradient averaged alike.

        χ²_B = mean of x² over (N, *);  χ² = mean of χ²_B over the last `window` batches, this one included
        r = clip(sqrt(χ² + eps) / sqrt(running_moment + eps), 1/r_max, r_max),  without gradient
        y = x / sqrt(χ² + eps) · r · weight + bias
        running_moment ← running_moment + momentum (χ² − running_moment)
        ∂l/∂z = ∂l/∂y · weight · r;  ∂l/∂x = (∂l/∂z − z Ψ) / sqrt(χ² + eps),  z = x / sqrt(χ² + eps)
        Ψ_B = mean of ∂l/∂z z over (N, *);  Ψ = mean of Ψ_B over the last `window` batches

    In evaluation y = x / sqrt(running_moment + eps) · weight + bias. No mean is subtracted: the paper instead
    centralizes the weights of the convolution before, subtracting from each filter its mean. That is not part of this
    layer; put a parametrization on the convolution.

    A window of 16 batches of 2 stands for a batch of 32. For the first `warmup_steps` training batches each is divided
    by its own root mean square, r is 1 and the gradient the exact one. The backward writes Ψ_B into `window_product`:
    run it once for each forward. Second derivatives are those of the averaged gradient.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        window: The number of batches in an average; 1 for the batch alone.
        eps: Added to the second moment, within the root.
        momentum: Weight of the newest χ² in the running one: 1 − α of the paper.
        affine: Whether to learn `weight` and `bias`.
        r_max: λ, the limit of r, 1 or more.
        warmup_steps: Training batches that are normalized alone.
        bias: Whether the affine has a `bias`.

    Attributes:
        loss_scale: What the loss is multiplied by before the backward; None is taken for 1, but refused under autocast
            to float16. Under a gradient scaler set it before each forward: `layer.loss_scale = scaler.get_scale()`.

    Raises:
        ValueError: If a number is out of its range.
        RuntimeError: If gradients are scaled by what the layer is not told, or a forward that it has forgotten is
            recomputed by activation checkpointing.

    Source: Yan et al. 2020, arXiv:2001.06838, section 4. Window, momentum, limit and warm-up as in the authors' code,
    which lets r be 1 for 1000 batches in any case.
    """

    shown = ("window", "eps", "momentum", "r_max", "warmup_steps")
    loss_scale: float | Tensor | None = None
    starts = (("running_moment", 1.0),)
    running_moment: Tensor
    window_moment: Tensor
    window_product: Tensor

    def __init__(
        self,
        num_features: int,
        window: int = 16,
        eps: float = 1e-5,
        momentum: float = 0.02,
        affine: bool = True,
        *,
        r_max: float = 5.0,
        warmup_steps: int = 100,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if window < 1 or not 0 < momentum <= 1 or r_max < 1 or warmup_steps < 0:
            raise invalid(
                self,
                "window is 1 or more, momentum above 0 and at most 1, r_max 1 or more, warmup_steps 0 or more; got "
                f"window={window}, momentum={momentum}, r_max={r_max}, warmup_steps={warmup_steps}",
            )
        super().__init__(num_features, affine, device, dtype, bias=bias)
        self.window = window
        self.eps = eps
        self.momentum = momentum
        self.r_max = r_max
        self.warmup_steps = warmup_steps
        for name in ("window_moment", "window_product"):
            self.register_buffer(name, torch.empty(window, num_features, device=device, dtype=dtype))
        self._register_statistics(device, dtype)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        super().reset_running_stats()
        self.window_moment.zero_()
        self.window_product.zero_()

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        if self.training and x.numel():
            scale = gradient_scale(self, x)
            rchi, r, share, slot = self._statistics(x)
            z = divide(x, rchi, share, slot, state=[self.window_product], scale=scale)
        else:
            moment = self.running_moment.to(torch.promote_types(x.dtype, torch.float32))
            z, r = x, (moment + self.eps).rsqrt()
        # weight · r is one factor for each channel, so that z is all that is saved.
        return scale_and_shift(z, self.weight * r if self.affine else r, self.bias).to(x.dtype)

    @torch.no_grad()
    def _statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return 1 / χ, r, the share of each batch in the window, and which is the newest; move the statistics."""
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        moment = wide.square().mean((0, *range(2, x.dim())))
        place = torch.arange(self.window, device=x.device)
        running, window, t = state_before(
            self, moment, self.running_moment, self.window_moment, self.num_batches_tracked
        )
        slot = (place == t % self.window).to(wide.dtype)
        filled = (place <= t).to(wide.dtype)
        alone = t < self.warmup_steps
        share, slot = snapshot(torch.where(alone, slot, filled / filled.sum()), slot)
        window = replace(window.to(wide.dtype), slot, moment)
        chi2 = average(window, share)
        running = running.to(wide.dtype)
        r = ((chi2 + self.eps) / (running + self.eps)).sqrt().clamp(1 / self.r_max, self.r_max)
        rchi, r = snapshot((chi2 + self.eps).rsqrt(), torch.where(alone, 1.0, r))
        if not is_recomputed():
            most = min(torch.finfo(dtype).max for dtype in (window.dtype, self.window_moment.dtype))
            kept = window.clamp(max=most)
            moves = ((self.running_moment, running + self.momentum * (chi2 - running)), (self.window_moment, kept))
            commit(*moves, (self.num_batches_tracked, t + 1))
        return rchi, r, share, slot
