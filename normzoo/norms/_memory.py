"""Memory: channels_last kept where an op would lose it, and results written over temporaries."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(x: Tensor) -> bool:
    """Tell whether the channels of `x` lie next to each other in memory, position by position.

    Read from the strides, as `Tensor.is_contiguous(memory_format=...)` does not work under vmap.
    """
    return x.dim() in _CHANNELS_LAST and x.shape[1] > 1 and x.stride(1) == 1 and x.stride(-1) == x.shape[1]


def channels_nearest(x: Tensor) -> bool:
    """Tell whether torch picks the channels_last kernel for `x`: also for a slice of such a tensor, or one channel."""
    return x.dim() in _CHANNELS_LAST and x.stride(1) <= x.stride(-1)


def channels_last(y: Tensor) -> Tensor:
    """Return `y` in channels_last order, copied if it is not."""
    return y.contiguous(memory_format=_CHANNELS_LAST[y.dim()])


def reuse_memory(*inputs: Tensor | None) -> Callable[[Tensor], Tensor | None]:
    """Return a function for the `out=` of operations on temporaries made from `inputs`: `out=reuse(temporary)`.

    On large activations, memory that is new to the process costs more time than the arithmetic that fills it. So each
    operation writes over a temporary that has had its last use, but only while nothing else looks at the operations:
    autograd (the backward of a backward), vmap, torch.compile or export. For those `reuse` gives None, and the same
    line makes a new tensor.
    """
    watched = torch.is_grad_enabled() or torch.compiler.is_compiling() or not all(map(_is_plain, inputs))
    return lambda temporary: None if watched else temporary


def _is_plain(tensor: Tensor | None) -> bool:
    return tensor is None or (type(tensor) in (Tensor, nn.Parameter) and not is_transformed(tensor))


def is_transformed(tensor: Tensor) -> bool:
    """Tell whether vmap or another transform of torch.func has wrapped this tensor, which then has no memory."""
    try:
        tensor.untyped_storage()
    except NotImplementedError:
        return True
    return False
