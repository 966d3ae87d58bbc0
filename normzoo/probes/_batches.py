"""Tell inputs from targets in the batches of data loaders."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from normzoo.surgery.batches import input_of as input_of


def as_batches(inputs: Iterable[Any], name: str, form: str) -> Iterable[Any]:
    """Return several batches; a single (x, y) becomes a list of one.

    Args:
        inputs: Batches, or one batch (x, y).
        name: Name of the argument, for the error message.
        form: Expected form, for the error message.

    Raises:
        TypeError: If `inputs` is one tensor, or could be one batch as well as two.
    """
    if isinstance(inputs, Tensor):
        raise TypeError(f"{name}: expected several batches, {form}; got a Tensor of shape {tuple(inputs.shape)}")
    if not isinstance(inputs, (tuple, list)) or len(inputs) != 2 or not isinstance(inputs[1], Tensor):
        return inputs
    x, y = inputs
    if not isinstance(x, Tensor):
        return [inputs] if isinstance(inputs, tuple) else inputs
    if x.dim() != y.dim() or x.dtype != y.dtype:  # two batches for one model would agree in both
        return [inputs]
    if isinstance(inputs, list) or x.shape[:1] != y.shape[:1]:
        return inputs
    if x.shape == y.shape:
        raise TypeError(f"{name}: two tensors of the same shape are ambiguous; pass [(x, y)] or [x1, x2]")
    return [inputs]


def check_pair(batch: Any) -> None:
    """Check that a batch is a pair (input, target).

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        shape = f" of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else ""
        count = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise TypeError(
            f"batch must be a pair (input, target), got a {type(batch).__name__}{shape}{count}; "
            f"pass (x, y), or ((x1, x2), y) for several inputs"
        )
