"""A sum over processes that can be differentiated; torch's own is deprecated, and its successor not public."""

from typing import Any

import torch.distributed as dist
from torch import Tensor

from normzoo.norms._kernels import Kernel


class _SumAcrossRanks(Kernel):
    """Σ x_r over the ranks r, on every rank; its gradient is the sum of the ranks' gradients."""

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
    """Sum `x` over all ranks; can be differentiated, twice and more."""
    return _SumAcrossRanks.apply(x, group)
