"""Ghost batch normalization: batch statistics over small groups of samples within the batch."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from normzoo.norms._memory_format import channels_last, is_channels_last
from normzoo.norms._recompute import is_recomputed
from normzoo.norms._refuse import check_count, check_input, invalid
from normzoo.norms._reuse import is_transformed
from normzoo.norms._running import update_running
from normzoo.norms.batch_norm import PEERS, BatchNormBase
from normzoo.registry import register

MEND = "use a larger group_size, a batch without a single sample left over, or a larger map"


@register(
    "ghost_batch_norm",
    aliases=("GBN", "GhostBN"),
    batch_dependent=True,
    paper="Hoffer, Hubara & Soudry, Train longer, generalize better, 2017, arXiv:1705.08741",
    reduces_over="N/k, *",
    train_eval_differ=True,
    state=("running_mean", "running_var", "num_batches_tracked"),
    fused=True,
    peers=PEERS,
)
class GhostBatchNorm(BatchNormBase):
    """Normalize each channel over groups of `group_size` samples and the positions: what N/g devices with local BN do.

        y = (x − mean_j) / sqrt(var_j + eps) · weight + bias,  mean_j and var_j over group j and (*)
        running ← (1 − momentum) · running + momentum · mean over groups of mean_j, and of unbiased var_j

    With k = N // g groups, group j holds the samples j, j + k, j + 2k, …: the share of device j when a
    `DistributedSampler` deals the batch out to k devices, and a view as g samples of k·C channels, so that one call of
    the batch norm kernel does all groups. What is left over, N % g samples, is a smaller group of its own.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        group_size: g, the samples in a group; a smaller batch is one group.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn `weight` and `bias`, shared by the groups.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the groups' own.

    Raises:
        ValueError: If `group_size` is less than 1, the number of channels of an input differs, or a statistic of a
            group would be over one value.

    Source: Hoffer, Hubara & Soudry 2017, arXiv:1705.08741, Algorithm 1. Its running statistics are moved once for each
    group, one after the other; here once for each batch, so that `momentum` means the same at every group size.
    """

    shown = (*BatchNormBase.shown, "group_size")

    def __init__(
        self,
        num_features: int,
        group_size: int = 32,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if group_size < 1:
            raise invalid(self, f"group_size is a number of samples, 1 or more; got {group_size}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.group_size = group_size

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """The number of values in a statistic; in that of the samples left over, where there are."""
        return (shape[0] % self.group_size or min(shape[0], self.group_size)) * math.prod(shape[2:])

    def _check_input_dim(self, input: Tensor) -> None:
        check_input(self, input, self.num_features)
        if self.uses_batch_statistics:
            check_count(self, input.shape, MEND)

    def forward(self, input: Tensor) -> Tensor:
        if not self.uses_batch_statistics or not input.numel():
            return super().forward(input)
        self._check_input_dim(input)
        k, left = len(input) // self.group_size, len(input) % self.group_size  # of which Dynamo knows no divmod
        if k + bool(left) == 1:  # batch norm, whose kernel moves the running statistics by itself
            return super().forward(input)
        if left == 0:
            y, *moved = self._forward_groups(input, k)
        else:
            parts = (self._forward_groups(input[:-left], k), self._forward_groups(input[-left:], 1))
            y, *moved = (torch.cat(both) for both in zip(*parts, strict=True))
        if moved:
            self._move_running(*moved)
        return channels_last(y) if is_channels_last(input) else y

    def _forward_groups(self, x: Tensor, k: int) -> list[Tensor]:
        """Output of k equal groups, as batch norm of k·C channels; with running statistics, a copy for each group.

        The kernel moves the copies: (k, C) running means and variances, or with `momentum=None` the groups' own.
        """
        grouped = x.reshape(len(x) // k, k * self.num_features, *x.shape[2:])
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = (None if p is None else p.to(wide).repeat(k) for p in (self.weight, self.bias))
        kept = (self.running_mean, self.running_var) if self.track_running_stats else ()
        moved = [running.to(wide).repeat(k) for running in kept if running is not None]
        mean, var = moved or (None, None)
        momentum = 1.0 if self.momentum is None else self.momentum
        y = F.batch_norm(grouped, mean, var, weight, bias, True, momentum, self.eps)
        return [y.reshape(x.shape), *(statistic.view(k, -1) for statistic in moved)]

    @torch.no_grad()
    def _move_running(self, means: Tensor, variances: Tensor) -> None:
        """To the mean over the groups, each as the kernel has moved it."""
        if is_recomputed():
            return
        if self.momentum is None:
            update_running(self, means.mean(0), variances.mean(0))
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        for running, moved in ((self.running_mean, means), (self.running_var, variances)):
            # By way of `data`, which vmap has not, unseen by autograd as what the kernel does: an earlier batch of one
            # group refers to them in its graph, and its backward may still be to come. That of training does not read
            # them; that of evaluation does, as of torch's own layer, and takes them as they are then.
            compiled = torch.compiler.is_compiling()
            (running.data if compiled or not is_transformed(running) else running).copy_(moved.mean(0))
