"""Check the arguments of a norm before it is built: types against annotations, and common ranges."""

import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from normzoo.errors import UserError


class ArgumentTypeError(UserError, TypeError):
    """An argument has the wrong type."""


class ArgumentValueError(UserError, ValueError):
    """An argument is out of range."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, (numbers.Integral, torch.SymInt)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (numbers.Real, torch.SymInt, torch.SymFloat)) and not isinstance(value, bool)


TYPES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("a whole number", _is_whole),
    float: ("a number", _is_number),
    str: ("a string", lambda value: isinstance(value, str)),
    torch.dtype: ("a data type such as torch.float32", lambda value: isinstance(value, torch.dtype)),
}
# Arguments that mean the same in every norm; each norm checks the ranges of its own arguments.
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "num_features": ("1 or more", lambda value: value >= 1),
    "eps": ("0 or more", lambda value: 0 <= value < math.inf),
    "momentum": ("from 0 to 1", lambda value: 0 <= value <= 1),  # torch's; one that cannot be None is the norm's own
    "channel_dim": ("other than 0, the batch dimension", lambda value: value != 0),
}


def check_num_features(norm: str, build: Callable[..., Any], value: Any) -> None:
    """Check the number of channels, the first parameter of all norms but weight norms, or sizes of trailing dimensions.

    Raises:
        ArgumentTypeError: A TypeError, if it is not a whole number.
        ArgumentValueError: A ValueError, if it is less than 1.
    """
    first = next(iter(_signature(build).parameters.values()))
    unannotated = first.annotation is first.empty and not isinstance(value, torch.nn.Module)  # a weight norm takes one
    if isinstance(value, Sequence) and not isinstance(value, str) and Sequence[int] in _options(first.annotation):
        if not value:
            raise ArgumentValueError(f"{norm}: {first.name} must be the size of one dimension or more; got {value!r}")
        for size in value:
            _check(norm, first.name, size, (int,), RANGES["num_features"])
    elif int in _options(first.annotation) or first.annotation == "int" or unannotated:
        _check(norm, first.name, value, (int,), RANGES["num_features"])


def check_values(norm: str, build: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Check values against the norm's annotations and the common ranges.

    Raises:
        ArgumentTypeError: A TypeError that names the norm, the argument and the expected type.
        ArgumentValueError: A ValueError that names the norm, the argument and the expected range.
    """
    parameters = _signature(build).parameters
    for name in keywords:
        if name in parameters:
            allowed = _options(parameters[name].annotation)
            if all(kind in TYPES or kind is types.NoneType for kind in allowed):
                own = name == "momentum" and types.NoneType not in allowed
                _check(norm, name, keywords[name], allowed, None if own else RANGES.get(name))


@functools.lru_cache(maxsize=256)
def _signature(build: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(build, eval_str=True)
    except Exception:  # a string annotation names something imported only for type checkers
        return inspect.signature(build)


def _options(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _check(
    norm: str,
    name: str,
    value: Any,
    allowed: tuple[Any, ...],
    within: tuple[str, Callable[[Any], bool]] | None,
) -> None:
    if value is None and types.NoneType in allowed:
        return
    kinds = [TYPES[kind] for kind in allowed if kind is not types.NoneType]
    expected = ", ".join([" or ".join(title for title, _ in kinds), *([within[0]] if within else [])])
    message = f"{norm}: {name} must be {expected}{' or None' if types.NoneType in allowed else ''}; got {value!r}"
    if not any(fits(value) for _, fits in kinds):
        raise ArgumentTypeError(message)
    if value != value or (within is not None and not within[1](value)):
        raise ArgumentValueError(message)
