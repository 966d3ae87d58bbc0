"""Batches as data loaders give them, (x, y), where a probe wants the input alone."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def input_of(model: nn.Module, batch: Any) -> Any:
    """The input in a batch: the first of a pair whose second is a target, and else the batch as it is.

    Of ((x1, x2), y) the second always is. Of (x, y) it is if the model takes no second input, and where one may be left
    out, if y is of labels: whole numbers, one for each sample.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        return batch
    x, y = batch
    needed, most = _inputs(model)
    if isinstance(x, (tuple, list)):
        return tuple(x) if most > 1 else x  # a data loader makes lists of tuples
    return x if most < 2 or (needed < 2 and _is_labels(y)) else batch


def batches_of(inputs: Iterable[Any], name: str, form: str) -> Iterable[Any]:
    """Several batches, also where one (x, y) is given for them.

    Args:
        name: What the inputs are called where they are an argument.
        form: Which are expected, for the message.

    Raises:
        TypeError: If one tensor is given, or what could be one batch as well as two.
    """
    if isinstance(inputs, Tensor):
        raise TypeError(f"{name}: several batches are expected, {form}; got a Tensor of shape {tuple(inputs.shape)}")
    if not isinstance(inputs, (tuple, list)) or len(inputs) != 2 or not isinstance(inputs[1], Tensor):
        return inputs
    x, y = inputs
    if not isinstance(x, Tensor):
        return [inputs] if isinstance(inputs, tuple) else inputs
    if x.dim() != y.dim() or x.dtype != y.dtype:  # in which two batches for one model are alike
        return [inputs]
    if isinstance(inputs, list) or x.shape[:1] != y.shape[:1]:
        return inputs
    if x.shape == y.shape:
        raise TypeError(f"{name}: a tuple of two tensors alike is one batch or two: give [(x, y)] or [x1, x2]")
    return [inputs]


def check_pair(batch: Any) -> None:
    """Refuse what is no (input, target).

    Raises:
        TypeError: That says what it is instead.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        shape = f" of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else ""
        count = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise TypeError(
            f"batch is a pair, (input, target), of which the loss is computed; got a {type(batch).__name__}{shape}"
            f"{count}: give (x, y), for several inputs ((x1, x2), y)"
        )


def _is_labels(y: Tensor) -> bool:
    return y.dim() <= 1 and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)


def _inputs(model: nn.Module) -> tuple[int, float]:
    """How many inputs the model needs, and how many it takes."""
    # What torch.compile and data parallelism put around a model takes anything.
    written = getattr(model, "_orig_mod", model)
    if isinstance(written, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        written = getattr(written.module, "_orig_mod", written.module)
    parameters = inspect.signature(written.forward).parameters.values()
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    further = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return sum(place.default is place.empty for place in places), float("inf") if further else len(places)
