"""Conditions of the conditional norms: check them, and apply one vector to each sample."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normzoo.norms._refuse import NormTypeError, NormValueError, describe


def check_condition(layer: nn.Module, condition: Tensor, shape: Sequence[int | None], what: str) -> None:
    """Refuse a condition of another shape; None in `shape` stands for any size.

    Raises:
        NormTypeError: A TypeError, if it is complex.
        NormValueError: A ValueError that names the layer, the shape received and the shape expected.
    """
    if condition.is_complex():
        raise NormTypeError(f"{describe(layer)} takes as condition {what}, of real numbers; got {condition.dtype}")
    given = tuple(condition.shape)
    if len(given) == len(shape) and all(s is None or s == g for s, g in zip(shape, given, strict=True)):
        return
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    expected = f"({sizes},)" if len(shape) == 1 else f"({sizes})"
    raise NormValueError(f"{describe(layer)} takes as condition {what}, of the shape {expected}; got {given}")


def check_labels(layer: nn.Module, condition: Tensor, samples: int, what: str, count: int) -> Tensor:
    """Return the labels as indices below `count`; refuse a condition that is not one whole number for each sample.

    A negative label, such as -1 for none, would count from the end; it becomes `count`, which indexing refuses.

    Raises:
        NormValueError: A ValueError that names the layer, what it got and what it takes.
    """
    check_condition(layer, condition, (samples,), what)
    if condition.is_floating_point() or condition.dtype == torch.bool:
        raise NormValueError(f"{describe(layer)} takes as condition {what}, whole numbers; got {condition.dtype}")
    labels = condition.long()  # of uint8 and bool an index would be a mask
    return torch.where(labels < 0, count, labels)


def per_sample(parameter: Tensor, x: Tensor) -> Tensor:
    """Shape vectors of shape (N, C) to multiply or add to `x` of shape (N, C, *)."""
    return parameter[(...,) + (None,) * (x.dim() - 2)]
