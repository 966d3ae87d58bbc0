"""A clip for projected gradient descent, whose gradient is not its derivative."""

from typing import Any

from torch import Tensor

from normzoo.norms._kernels import Kernel


class _Clip(Kernel):
    """clip(x, 0, 1), whose gradient is that of descent projected on [0, 1].

    The derivative of the clip is 0 outside, where an x that one step has carried over a bound would stay for good. Here
    a gradient passes outside too, if descent along it leads back.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        passes = ((x >= 0) | (grad < 0)) & ((x <= 1) | (grad > 0))
        return grad * passes


def projected_clip(x: Tensor) -> Tensor:
    """Clip to [0, 1]; from outside only gradients that lead back pass."""
    return _Clip.apply(x)
