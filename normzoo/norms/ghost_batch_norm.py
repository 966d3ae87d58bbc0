"""Ghost batch normalization: batch statistics over small groups of samples within the batch."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from normzoo.norms._memory import channels_last, is_channels_last, is_transformed
from normzoo.norms._recompute import is_recomputed
from normzoo.norms._refuse import check_count, check_input, invalid
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
    """Normalize each channel over groups of `group_size` samples and the positions, as N/g devices with local BN do.

        y = (x − mean_j) / sqrt(var_j + eps) · weight + bias,  mean_j and var_j over group j and (*)
        running ← (1 − momentum) · running + momentum · new,  new the average of mean_j and of unbiased var_j

    With k = N // g groups, group j holds the samples j, j + k, j + 2k, …: the share of device j when a
    `DistributedSampler` deals the batch out to k devices, and a view as g samples of k·C channels, so that one call of
    the batch norm kernel does all groups. The N % g samples left over are a smaller group of their own.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        group_size: g, the samples in a group; a smaller batch is one group.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn `weight` and `bias`, shared by the groups.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the groups' own.
        contiguous: Whether group j holds g samples in a row, from j·g on, as in the code of Hoffer et al. and in
            MosaicML's Composer; this takes two copies.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If `group_size` is less than 1.

    Source: Hoffer, Hubara & Soudry 2017, arXiv:1705.08741, Algorithm 1. Its running statistics are moved once for each
    group, one after the other; here once for each batch, so that `momentum` means the same at every group size.
    """

    shown = (*BatchNormBase.shown, "group_size", "contiguous")

    def __init__(
        self,
        num_features: int,
        group_size: int = 32,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        contiguous: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if group_size < 1:
            raise invalid(self, f"group_size is a number of samples, 1 or more; got {group_size}")
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, device=device, dtype=dtype
        )
        self.group_size = group_size
        self.contiguous = contiguous

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the values in a statistic; in that of the samples left over, where there are."""
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
        """Return the output of k equal groups and, with running statistics, a copy of these for each group.

        The kernel moves the copies: (k, C) running means and variances, or with `momentum=None` the groups' own.
        """
        dealt = _transpose(x, k) if self.contiguous else x
        grouped = dealt.reshape(len(x) // k, k * self.num_features, *x.shape[2:])
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = (None if p is None else p.to(wide).repeat(k) for p in (self.weight, self.bias))
        kept = (self.running_mean, self.running_var) if self.track_running_stats else ()
        moved = [running.to(wide).repeat(k) for running in kept if running is not None]
        mean, var = moved or (None, None)
        momentum = 1.0 if self.momentum is None else self.momentum
        y = F.batch_norm(grouped, mean, var, weight, bias, True, momentum, self.eps).reshape(x.shape)
        return [_transpose(y, len(x) // k) if self.contiguous else y, *(s.view(k, -1) for s in moved)]

    @torch.no_grad()
    def _move_running(self, means: Tensor, variances: Tensor) -> None:
        """Move the running statistics to the mean over the groups, each as the kernel has moved it."""
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
            # By way of `data`, which vmap does not have, so that autograd does not see it: an earlier batch of one
            # group refers to them in its graph, and its backward, which does not read them, may still be to come.
            compiled = torch.compiler.is_compiling()
            (running.data if compiled or not is_transformed(running) else running).copy_(moved.mean(0))


def _transpose(x: Tensor, rows: int) -> Tensor:
    """Reorder the samples, which stand in `rows` rows, column by column."""
    return x.unflatten(0, (rows, -1)).transpose(0, 1).flatten(0, 1)
