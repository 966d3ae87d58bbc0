"""Batch renormalization: batch statistics, corrected towards the running ones that evaluation uses."""

import torch
from torch import Tensor

from normzoo.norms._layer import scale_and_shift
from normzoo.norms._recompute import is_recomputed, state_before
from normzoo.norms._refuse import invalid
from normzoo.norms._running import commit, newest_weight, snapshot
from normzoo.norms._standardize import standardize
from normzoo.norms.batch_norm import PEERS, STATE, BatchNormBase
from normzoo.registry import register


@register(
    "batch_renorm",
    aliases=("BRN", "BatchRenorm1d", "BatchRenorm2d", "BatchRenorm3d", "batch_renormalization"),
    batch_dependent=True,
    paper="Ioffe, Batch Renormalization, 2017, arXiv:1702.03275",
    reduces_over="N, *",
    train_eval_differ=True,
    state=STATE,
    peers=PEERS,
)
class BatchRenorm(BatchNormBase):
    """Batch normalization whose training output is corrected towards what evaluation would give.

        σ_B = sqrt(var + eps),  σ = sqrt(running_var + eps),  mean and var over (N, *)
        r = clip(σ_B / σ, 1/r_max, r_max),  d = clip((mean − running_mean) / σ, −d_max, d_max),  without gradient
        y = ((x − mean) / σ_B · r + d) · weight + bias
        running_mean ← running_mean + momentum (mean − running_mean),  σ ← σ + momentum (σ_B − σ)

    Unclipped, r and d make the training output that of evaluation, (x − running_mean) / σ. The limits start at
    r_max = 1 and d_max = 0, which is batch norm, so that the running statistics can settle; after `warmup_steps`
    training batches, counted by `num_batches_tracked`, they grow linearly. A run of fewer batches than `warmup_steps`
    is one of batch norm: scale the three numbers of steps to its length.

    State dicts are interchangeable with those of batch norm, the count included: a model that was trained longer than
    `r_max_steps` starts at the full limits. As in the paper, the running average is one of σ_B, of the biased variance;
    chainer's averages unbiased variances.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics (0.01 in the paper); None for their cumulative
            average.
        affine: Whether to learn `weight` and `bias`.
        r_max: The final limit of r, 1 or more.
        d_max: The final limit of d, 0 or more.
        warmup_steps: Training batches before the limits begin to grow.
        r_max_steps: Training batches after which the limit of r is `r_max`.
        d_max_steps: Training batches after which the limit of d is `d_max`.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If a limit is out of its range, or a number of steps is less than `warmup_steps`.

    Source: Ioffe 2017, arXiv:1702.03275, Algorithm 1 and section 4.
    """

    shown = (*BatchNormBase.shown, "r_max", "d_max", "warmup_steps", "r_max_steps", "d_max_steps")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warmup_steps: int = 5000,
        r_max_steps: int = 40_000,
        d_max_steps: int = 25_000,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if r_max < 1 or d_max < 0:
            raise invalid(self, f"r_max is 1 or more and d_max 0 or more; got r_max={r_max}, d_max={d_max}")
        if not 0 <= warmup_steps <= min(r_max_steps, d_max_steps):
            raise invalid(
                self,
                f"the limits grow from warmup_steps on, so that r_max_steps and d_max_steps are not less; got "
                f"warmup_steps={warmup_steps}, r_max_steps={r_max_steps}, d_max_steps={d_max_steps}",
            )
        super().__init__(num_features, eps, momentum, affine, bias=bias, device=device, dtype=dtype)
        self.r_max = r_max
        self.d_max = d_max
        self.warmup_steps = warmup_steps
        self.r_max_steps = r_max_steps
        self.d_max_steps = d_max_steps

    def limits(self, num_batches: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return r_max and d_max after so many training batches; by default for the next one."""
        num_batches = self.num_batches_tracked if num_batches is None else num_batches
        assert num_batches is not None
        step = num_batches.to(torch.float32 if num_batches.device.type == "mps" else torch.float64)

        def grown(steps: int) -> Tensor:
            """Return 0 up to `warmup_steps`, 1 from `steps` on, and a line between."""
            if steps == self.warmup_steps:
                return (step >= steps).to(step.dtype)
            return ((step - self.warmup_steps) / (steps - self.warmup_steps)).clamp(0, 1)

        return 1 + (self.r_max - 1) * grown(self.r_max_steps), self.d_max * grown(self.d_max_steps)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not input.numel():
            return super().forward(input)  # batch norm; an empty batch has nothing to correct
        self._check_input_dim(input)
        x_hat, mean, var, _ = standardize(input, (0, *range(2, input.dim())), self.eps)
        r, d = self._correct(mean.detach().flatten(), var.detach().flatten())
        # As the affine maps follow each other, one of both saves an activation.
        scale, shift = (self.weight * r, self.weight * d) if self.affine else (r, d)
        shift = shift if self.bias is None else shift + self.bias
        return scale_and_shift(x_hat, scale, shift).to(input.dtype)

    @torch.no_grad()
    def _correct(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Compute r and d, and then move the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        buffers = (self.running_mean, self.running_var, self.num_batches_tracked)
        running_mean, running_var, t = state_before(self, torch.stack([mean, var]), *buffers)
        running_mean, running_var = running_mean.to(mean.dtype), running_var.to(mean.dtype)
        sigma_batch, sigma = (var + self.eps).sqrt(), (running_var + self.eps).sqrt()
        r_max, d_max = (limit.to(mean.dtype) for limit in self.limits(t))
        r, d = snapshot(
            (sigma_batch / sigma).clamp(1 / r_max, r_max), ((mean - running_mean) / sigma).clamp(-d_max, d_max)
        )
        if self.track_running_stats and not is_recomputed():
            w = newest_weight(t + 1, self.momentum)
            sigma = sigma + w * (sigma_batch - sigma)
            new = (running_mean + w * (mean - running_mean), (sigma.square() - self.eps).clamp(min=0), t + 1)
            commit(*zip(buffers, new, strict=True))
        return r, d
