"""Statistics over the processes of a group: one gather forward, one sum backward."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def merge_statistics(
    count: int, mean: Tensor, var: Tensor, group: "dist.ProcessGroup"
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and biased variance over all ranks, from each rank's own; a rank may hold no values.

    The means are merged as in Chan et al., which takes no difference of large squares:

        n = Σ n_r;  μ = Σ n_r μ_r / n;  σ² = Σ n_r (σ²_r + (μ_r − μ)²) / n

    The result is wider than the input, float64 where the device has it, and has the same bits on every rank.

    Source: Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    wide = torch.float32 if mean.device.type == "mps" else torch.float64
    if count == 0:
        # The mean of nothing is NaN, which no weight of zero would take out of the sums.
        mean, var = torch.zeros_like(mean), torch.zeros_like(var)
    own = torch.stack([torch.full_like(mean, count, dtype=wide), mean.to(wide), var.to(wide)])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    counts, means, variances = torch.stack(gathered, dim=1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    var = (counts * (variances + (means - mean).square())).sum(0) / total
    return total, mean, var


class _SumAcrossRanks(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, group: "dist.ProcessGroup") -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return sum_across_ranks(grad, ctx.group), None


def sum_across_ranks(x: Tensor, group: "dist.ProcessGroup") -> Tensor:
    """The sum of `x` over all ranks; its gradient is the sum of theirs, so that it can be differentiated twice."""
    return _SumAcrossRanks.apply(x, group)
