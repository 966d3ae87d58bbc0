"""What a norm is to be built with, checked before it is: types as annotated, and ranges of what all norms share."""

import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch

from normzoo.errors import UserError


class ArgumentTypeError(UserError, TypeError):
    """An argument of another type than its norm takes."""


class ArgumentValueError(UserError, ValueError):
    """An argument out of the range that its norm takes."""


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
# Of arguments that mean the same in every norm; the range of one that a norm has alone is checked by that norm.
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "num_features": ("1 or more", lambda value: value >= 1),
    "eps": ("0 or more", lambda value: 0 <= value < math.inf),
    "momentum": ("from 0 to 1", lambda value: 0 <= value <= 1),  # as torch's; one that is never None is the norm's own
    "channel_dim": ("other than 0, which counts the samples", lambda value: value != 0),
}


def check_num_features(norm: str, build: Callable[..., Any], value: Any) -> None:
    """Refuse what is no number of channels, which the first parameter of all norms is, but of those of weights.

    Raises:
        ArgumentTypeError: A TypeError, if it is no whole number.
        ArgumentValueError: A ValueError, if it is less than 1.
    """
    first = next(iter(_signature(build).parameters.values()))
    untold = first.annotation is first.empty and not isinstance(value, torch.nn.Module)  # which a norm of weights takes
    if first.annotation in (int, "int") or untold:
        _check(norm, first.name, value, (int,), RANGES["num_features"])


def check_values(norm: str, build: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Refuse values that the norm's annotations do not allow, or that are out of range whatever the norm.

    Raises:
        ArgumentTypeError: A TypeError that names the norm, the argument and what was expected.
        ArgumentValueError: A ValueError that does.
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
    except Exception:  # of an annotation that is a string, and names what is imported for type checkers alone
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
    said = f"{norm}: {name} is {expected}{' or None' if types.NoneType in allowed else ''}; got {value!r}"
    if not any(fits(value) for _, fits in kinds):
        raise ArgumentTypeError(said)
    if value != value or (within is not None and not within[1](value)):
        raise ArgumentValueError(said)
