"""Small batches on a CPU are convolved without oneDNN, which takes longer to begin a convolution than they to compute.

oneDNN prepares every convolution anew, forward and backward, and then computes it fast; what torch does without it
begins at once and computes each sample by itself. Which of them is used follows from shapes alone, and not from a
measurement, so that one seed gives one result.
"""

import copy
import math
from collections.abc import Sequence
from types import TracebackType

import torch
from torch import nn
from torch.backends import mkldnn

# Where the two took the same time, for plain nets, VGGs, LeNet and ResNets at images of 8 to 32 pixels and batches of 2
# to 32, the samples times the multiply-adds of a convolution and of its beginning, `EACH`, came to `WORTH` or more.
WORTH, EACH = 2.5e6, 2.5e5


class Convolving:
    """A context in which convolutions on a CPU do without oneDNN if they are `small`, and all is as it was if not."""

    def __init__(self, *, small: bool) -> None:
        self.small = small

    def __enter__(self) -> None:
        self._before = mkldnn.enabled
        if self.small:
            mkldnn.enabled = False  # type: ignore[assignment]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mkldnn.enabled = self._before


def convolving(model: nn.Module, shape: Sequence[int]) -> Convolving:
    """The context for batches of this shape (N, C, *) on their way through the model and back, in float32."""
    if shape[0] * EACH >= WORTH:
        return Convolving(small=False)
    found = multiply_adds(model, shape)
    return Convolving(small=bool(found) and shape[0] * (sum(found) / len(found) + EACH) < WORTH)


def multiply_adds(model: nn.Module, shape: Sequence[int]) -> list[float]:
    """Of each convolution for one sample; infinitely many for one in groups, which torch takes one after the other."""
    found: list[float] = []

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        found.append(layer.weight.numel() * output[0, 0].numel() if layer.groups == 1 else math.inf)

    twin = copy.deepcopy(model).to("meta").train()
    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        twin(torch.empty(*shape, device="meta"))
    return found
