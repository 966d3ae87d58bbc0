"""A linear recurrence over the samples, in few operations on all of them."""

import torch
from torch import Tensor


def recurrence(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """s_0 = start, s_t = a_t s_{t−1} + b_t along the first dimension: all of s_0 … s_N.

    Two steps in turn are one of the same kind, (a₂ a₁, a₂ b₁ + b₂), so that doubling how far each reaches takes
    log₂ N operations on all samples at once in place of N.
    """
    if len(b) == 0:
        return start.unsqueeze(0)
    b = torch.cat([a[:1] * start + b[:1], b[1:]])
    reach = 1
    while reach < len(b):
        b = torch.cat([b[:reach], a[reach:] * b[:-reach] + b[reach:]])
        a = torch.cat([a[:reach], a[reach:] * a[:-reach]])
        reach *= 2
    return torch.cat([start.unsqueeze(0), b])
