"""Synchronized batch normalization: batch statistics over all processes."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from normzoo.norms._layer import scale_and_shift
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import update_running
from normzoo.norms._standardize import standardize
from normzoo.norms.batch_norm import PEERS, BatchNorm
from normzoo.registry import register

MEND = "use a larger batch on some process, or a norm that does not depend on the batch, such as group_norm"


@register(
    "sync_batch_norm",
    aliases=("SyncBN", "SyncBatchNorm", "naiveSyncBN", "naiveSyncBN_N", "nnSyncBN", "MMSyncBN"),
    batch_dependent=True,
    paper="Ioffe & Szegedy 2015, arXiv:1502.03167; across devices Peng et al., MegDet, 2017, arXiv:1711.07240",
    reduces_over="N, *, processes",
    train_eval_differ=True,
    state=("running_mean", "running_var", "num_batches_tracked"),
    peers=PEERS,
)
class SyncBatchNorm(BatchNorm):
    """Normalize each channel over the batches of all processes and the positions, on any device and backend.

        n = Σ n_r;  mean = Σ n_r mean_r / n;  var = Σ n_r (var_r + (mean_r − mean)²) / n,  summed over processes r
        y = (x − mean) / sqrt(var + eps) · weight + bias

    It is `batch_norm` on all the batches together: in output, in the gradient of each process's input, in the running
    statistics, and in the gradients of `weight` and `bias` summed over processes. Batches may differ in size and be
    empty; but `DistributedDataParallel` averages gradients over processes, so that those of a mean loss are exact only
    for batches of one size. In one process, or in evaluation, it is `batch_norm` itself.

    Forward gathers three numbers a channel from each process, backward sums two: all processes must run both, also from
    an empty output. It is not an instance of torch's `SyncBatchNorm`, which refuses the CPU.

    Shape: `(N, C, *)` -> `(N, C, *)`, with N of each process's own.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn `weight` and `bias`.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batches' own.
        process_group: The processes to average over; None for all.
        bias: Whether the affine has a `bias`.

    Attributes:
        planned_processes: How many processes there will be, for a forward on the meta device to check shapes before
            they are started; of no effect afterwards.

    Source: Peng et al. 2017, arXiv:1711.07240, section 3.3; Chan, Golub & LeVeque 1979.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        process_group: "dist.ProcessGroup | None" = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, device=device, dtype=dtype
        )
        self.process_group = process_group
        self.planned_processes = 1

    @property
    def _processes(self) -> int:
        """The number of processes now; 0 without a group of processes."""
        if not dist.is_available() or not dist.is_initialized():
            return 0
        return dist.get_world_size(self.process_group)

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the values in a statistic, if every process holds an input of this shape."""
        return super().values_per_statistic(shape) * (self._processes or self.planned_processes)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.is_meta:
            self._check_input_dim(input)
            return input.clone()
        if not self.training or self._processes < 2:
            return super().forward(input)
        x = input
        check_input(self, x, self.num_features)
        dims = (0, *range(2, x.dim()))
        x_hat, mean, var, n = standardize(x, dims, self.eps, group=self.process_group or dist.group.WORLD)
        # Only where there is next to nothing here can there be so everywhere, so that no step waits for the device.
        own = x.shape[0] * math.prod(x.shape[2:])
        total = int(n.max()) if own <= 1 else own
        check_count(self, x.shape, MEND, count=total)
        if total > 0:
            update_running(self, mean, var * (n / (n - 1)))
        return scale_and_shift(x_hat, self.weight, self.bias).to(x.dtype)
