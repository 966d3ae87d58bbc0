"""Small batches on a CPU are convolved without oneDNN, which takes longer to begin a convolution than they to compute.

oneDNN prepares every convolution anew, forward and backward, and then computes it fast; what torch does without it
begins at once and computes each sample by itself. Which of them is used follows from shapes alone, and not from a
measurement, so that one seed gives one result.
"""

from collections.abc import Sequence
from types import TracebackType

import torch
from torch.backends import mkldnn

# About where the two take the same time, the samples times the multiply-adds of a convolution and of its beginning,
# `EACH`, come to `WORTH`; `python -m scripts.bench_sweep --only convolutions` measures how well that holds.
WORTH, EACH = 2.5e6, 2.5e5


class Convolving:
    """A context in which convolutions on a CPU do without oneDNN if they are `small`, and all is as it was if not."""

    def __init__(self, *, small: bool) -> None:
        self.small = small and not torch.backends.flags_frozen()

    def __enter__(self) -> None:
        if self.small:
            self._before = mkldnn.enabled
            mkldnn.enabled = False  # type: ignore[assignment]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.small:
            mkldnn.enabled = self._before


def convolving(batch: int, multiply_adds: Sequence[float]) -> Convolving:
    """The context for batches of so many samples in float32, through a model of these convolutions and back."""
    if not multiply_adds:
        return Convolving(small=False)
    return Convolving(small=batch * (sum(multiply_adds) / len(multiply_adds) + EACH) < WORTH)
