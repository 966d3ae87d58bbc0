"""Tell inputs from targets in the batches of data loaders."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def input_of(model: nn.Module, batch: Any) -> Any:
    """Return the input of a batch: the first of a pair (input, target), else the batch itself.

    In ((x1, x2), y) the second is always a target. In (x, y) it is one if the model takes a single input; if the model
    has an optional second input, y is a target if it holds labels (one integer per sample).
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        return batch
    x, y = batch
    needed, most = _inputs(model)
    if isinstance(x, (tuple, list)):
        return tuple(x) if most > 1 else x  # a data loader turns tuples into lists
    return x if most < 2 or (needed < 2 and _is_labels(y)) else batch


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


def _is_labels(y: Tensor) -> bool:
    return y.dim() <= 1 and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)


def _inputs(model: nn.Module) -> tuple[int, float]:
    """Return the number of required inputs of the model, and the maximum."""
    # The wrappers of torch.compile and data parallelism accept any arguments.
    written = getattr(model, "_orig_mod", model)
    if isinstance(written, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        written = getattr(written.module, "_orig_mod", written.module)
    parameters = inspect.signature(written.forward).parameters.values()
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    further = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return sum(place.default is place.empty for place in places), float("inf") if further else len(places)
