"""L1 batch normalization: the mean absolute deviation in place of the standard deviation."""

import math

import torch
from torch import Tensor

from normzoo.norms._layer import scale_and_shift
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import RunningNorm, move_running
from normzoo.norms._standardize import centre, per_channel
from normzoo.norms.batch_norm import MEND
from normzoo.registry import register

GAUSSIAN = math.sqrt(math.pi / 2)  # the standard deviation of a Gaussian by its mean absolute deviation


@register(
    "l1_batch_norm",
    aliases=("L1BN", "L1NormBN", "BatchNormL1"),
    batch_dependent=True,
    paper="Wu et al., L1-Norm Batch Normalization, 2018, arXiv:1802.09769; Hoffer et al., Norm matters, 2018, "
    "arXiv:1803.01814",
    reduces_over="N, *",
    train_eval_differ=True,
    state=("running_mean", "running_std", "num_batches_tracked"),
)
class L1BatchNorm(RunningNorm):
    """Batch normalization with a standard deviation taken from absolute values: no square, no root.

        std = sqrt(π/2) · mean of |x − mean|,  means over (N, *)
        y = (x − mean) / (std + eps) · weight + bias
        running ← (1 − momentum) · running + momentum · new

    Of normally distributed values std is the standard deviation; of others it differs by a factor that `weight` can
    take up. Cheaper in hardware, and safe in half precision where a sum of squares overflows. With the factor sqrt(π/2)
    of Hoffer et al., which Wu et al. leave out, it can replace batch norm at the same learning rate.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the deviation itself.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn `weight` and `bias`.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.
        bias: Whether the affine has a `bias`.

    Source: Hoffer et al. 2018, arXiv:1803.01814, section 4.1; Wu et al. 2018, arXiv:1802.09769.
    """

    shown = ("eps", "momentum", "affine", "track_running_stats")
    starts = (("running_mean", 0.0), ("running_std", 1.0))
    running_mean: Tensor | None
    running_std: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, affine, device, dtype, bias=bias)
        self.eps = eps
        self.momentum = momentum
        self.track_running_stats = track_running_stats
        self._register_statistics(device, dtype, tracked=track_running_stats)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        if self.training or self.running_mean is None:
            check_count(self, x.shape, MEND)
            centred, std = self._statistics(x)
        else:
            assert self.running_std is not None
            wide = torch.promote_types(x.dtype, torch.float32)
            centred, std = x.to(wide) - per_channel(self.running_mean, x), self.running_std.to(wide)
        rstd = 1 / (std + self.eps)
        # weight · rstd is one factor for each channel, so that the centred input is all that is saved.
        scale = self.weight * rstd if self.affine else rstd
        return scale_and_shift(centred, scale, self.bias).to(x.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centred input and std, and move the running statistics."""
        dims = (0, *range(2, x.dim()))
        centred, mean = centre(x, dims)
        # A quotient of sums, which for an empty batch is 0, as its gradients should be.
        std = GAUSSIAN * centred.abs().sum(dims) / max(1, self.values_per_statistic(x.shape))
        moving = self.training and self.track_running_stats and x.numel()
        if moving and self.running_mean is not None and self.running_std is not None:
            moves = ((self.running_mean, mean), (self.running_std, std))
            move_running(self.num_batches_tracked, self.momentum, *moves)
        return centred, std
