"""What the `_target_` of a group names: find it, see which arguments it takes, and call it."""

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from normzoo.errors import UserError


def title(group: str, options: Mapping[str, Any]) -> str:
    """Return how messages name a choice: `model=resnet8`, or by its target where it has no name."""
    name = options.get("name")
    return f"{group}={name}" if name else f"{group}._target_={options.get('_target_')}"


def takes(group: str, options: Mapping[str, Any], name: str) -> bool:
    """Return whether the constructor that a group names has this argument, or any."""
    parameters = _parameters(group, options)
    if parameters is None or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return True
    return name in parameters


def _parameters(group: str, options: Mapping[str, Any]) -> Mapping[str, inspect.Parameter] | None:
    """Return the arguments of the constructor that a group names; None if they are not known, as of one in C."""
    try:
        return inspect.signature(_target(group, options)).parameters
    except ValueError:
        return None


def accepted(group: str, options: Mapping[str, Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a constructor has no argument for."""
    return {name: value for name, value in offered.items() if takes(group, options, name)}


def check_module(group: str, options: Mapping[str, Any], built: object) -> None:
    """Check that what was built is a module."""
    if not isinstance(built, nn.Module):
        raise UserError(f"{title(group, options)}: {options['_target_']} returns {built!r:.60}, not an nn.Module")


def build_by_target(group: str, options: Mapping[str, Any], **arguments: Any) -> Any:
    """Call what a group names, with its options and these arguments.

    Raises:
        UserError: If it is not found, or does not take them.
    """
    try:
        return partial_of(group, options)(**arguments)
    except TypeError as error:
        name = options.get("name")  # which no probe has
        stranger = str(error).rpartition("unexpected keyword argument ")[2].strip("'")
        left_over = name and stranger in options and not str(options.get("_target_")).startswith("normzoo.")
        of = f"; it is an option of {group}={name}: leave it out with ~{group}.{stranger}" if left_over else ""
        raise UserError(f"{group}={name}: {error}{of}" if name else f"{group}: {error}") from error


def partial_of(group: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return what a group names, with its options as arguments.

    Raises:
        UserError: If it is not found.
    """
    _target(group, options)
    own = "name" in (_parameters(group, options) or {})  # otherwise it names the choice
    chosen = {key: value for key, value in options.items() if own or key != "name"}
    try:
        # Called by us and not by Hydra, which would turn the arguments into configuration, and errors into its own.
        return instantiate(chosen, _partial_=True, _convert_="all")
    except InstantiationException as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"{title(group, options)}: {said}") from error


def _target(group: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Import what a group's `_target_` names.

    Raises:
        UserError: If there is nothing of that name, or importing its module fails.
    """
    target = options.get("_target_")
    try:
        return instantiate({"_target_": target}, _partial_=True).func
    except InstantiationException as error:  # whatever a module of the user's raises when it is imported
        cause = error.__cause__ or error
        raise UserError(
            f"{group}._target_={target}: {_why_not_found(str(target), cause.__context__ or cause)}"
        ) from error


def _why_not_found(target: str, error: BaseException) -> str:
    """Say which part of a dotted name Python does not find, and where it looks."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:end]))
        if module is not None:
            break
    else:
        module, end = None, 0
    missing = getattr(error, "name", None)
    ours = missing is None or target.startswith(str(missing))
    if isinstance(error, (ModuleNotFoundError, AttributeError)) and ours:
        if module is not None:
            near = difflib.get_close_matches(parts[end], [one for one in vars(module) if one[0] != "_"], n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            return f"the module {module.__name__} has no {parts[end]}{meant}"
        return (
            f"Python finds no module {parts[0]}: run normzoo in the folder that has {parts[0]}.py or {parts[0]}/ and "
            "put that on Python's path (PYTHONPATH=. normzoo train ...), or install the package (pip install -e .)"
        )
    return f"importing it fails: {type(error).__name__}: {error}"
