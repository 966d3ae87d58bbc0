"""Keeping channels_last where an op would lose it."""

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of `x` lie next to each other in memory, position by position.

    Read from the strides, as `Tensor.is_contiguous(memory_format=...)` does not work under vmap.
    """
    return x.dim() in _CHANNELS_LAST and x.shape[1] > 1 and x.stride(1) == 1 and x.stride(-1) == x.shape[1]


def channels_nearest(x: Tensor) -> bool:
    """Whether torch picks the channels_last kernel for `x`: so it does for a slice of such a tensor, or one channel."""
    return x.dim() in _CHANNELS_LAST and x.stride(1) <= x.stride(-1)


def channels_last(y: Tensor) -> Tensor:
    """`y` in channels_last order, copied if it is not."""
    return y.contiguous(memory_format=_CHANNELS_LAST[y.dim()])
