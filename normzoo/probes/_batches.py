"""Batches as data loaders give them, (x, y), where a probe wants the input alone."""

import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


def input_of(model: nn.Module, batch: Any) -> Any:
    """The input in a batch: the first of a pair of tensors whose second is a target, and else the batch as it is.

    It is a target if the model needs no second input and it is of labels, or of other rank than the input, or if the
    model takes no second input at all.
    """
    if not _is_pair(batch):
        return batch
    x, y = batch
    needed, most = _inputs(model)
    # A list of two tensors alike may be what a model of lists is called with.
    target = _is_target(x, y) or (most < 2 and isinstance(batch, tuple))
    return x if needed < 2 and target else batch


def batches_of(model: nn.Module, inputs: Iterable[Any]) -> Iterable[Any]:
    """The input in each of several batches, also where one batch (x, y) is given for them.

    Raises:
        TypeError: If one tensor is given where several batches are expected.
    """
    if isinstance(inputs, Tensor):
        raise TypeError("inputs are several batches: give a list, [x], for one")
    if _is_pair(inputs) and _is_target(*inputs):
        inputs = [inputs]
    return (input_of(model, batch) for batch in inputs)


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


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)


def _is_target(x: Tensor, y: Tensor) -> bool:
    labels = y.dim() <= 1 and not y.is_floating_point() and not y.is_complex()
    return y.dim() != x.dim() or (labels and x.is_floating_point())


def _inputs(model: nn.Module) -> tuple[int, float]:
    """How many inputs the model needs, and how many it takes."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 0, float("inf")
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(place.default is place.empty for place in places), len(places)
