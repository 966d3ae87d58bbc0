"""Writing a result over a temporary that is needed no more."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def reuse_memory(*inputs: Tensor | None) -> Callable[[Tensor], Tensor | None]:
    """A function for the `out=` of torch's operations on temporaries made from `inputs`: `out=reuse(temporary)`.

    On large activations, memory that is new to the process costs more time than the arithmetic that fills it. So each
    operation writes over a temporary that has had its last use; but only while nothing else looks at the operations,
    which autograd does (the backward of a backward), and vmap, torch.compile and export. For those `reuse` gives None,
    and the same line makes a new tensor.
    """
    watched = torch.is_grad_enabled() or torch.compiler.is_compiling() or not all(map(_is_plain, inputs))
    return lambda temporary: None if watched else temporary


def _is_plain(tensor: Tensor | None) -> bool:
    """Whether this is a tensor with memory of its own, which one that vmap or torch.func has wrapped has not."""
    return tensor is None or (type(tensor) in (Tensor, nn.Parameter) and not is_transformed(tensor))


def is_transformed(tensor: Tensor) -> bool:
    """Whether vmap or another transform of torch.func has wrapped this tensor: it has no memory of its own then."""
    try:
        tensor.untyped_storage()
    except NotImplementedError:
        return True
    return False
