"""Find norms that are functions, such as `F.layer_norm`, and not layers: in the code of a model, and in a run."""

import dis
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

NAMES = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm")
FUNCTIONS = {getattr(place, name): name for place in (torch, F) for name in NAMES if hasattr(place, name)}


def functions_in_code(model: nn.Module, norms: Collection[nn.Module]) -> list[tuple[nn.Module, str]]:
    """Return the functions of norms that the code of modules outside of `norms` names, with these modules."""
    found = []
    within = {inner for norm in norms for inner in norm.modules()}
    for module in model.modules():
        if module in within or type(module).__module__.startswith("torch.nn."):
            continue
        kinds = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
        functions = [f for kind in kinds for f in vars(kind).values() if isinstance(f, types.FunctionType)]
        found += [(module, function) for function in sorted({called for f in functions for called in _named(f)})]
    return found


def _named(function: types.FunctionType) -> Iterator[str]:
    """Yield the names of the norms' functions that a function's code refers to, as in `F.layer_norm`."""
    value: Any = None
    for step in dis.get_instructions(function):
        if step.opname == "LOAD_GLOBAL":
            value = function.__globals__.get(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, types.ModuleType):
            value = getattr(value, step.argval, None)
        else:
            value = None
        if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)) and value in FUNCTIONS:
            yield FUNCTIONS[value]


class FunctionCalls(TorchFunctionMode):
    """Note the functions of norms that are called.

    Args:
        called: Called with the name of each.
    """

    def __init__(self, called: Callable[[str], None]) -> None:
        super().__init__()
        self.called = called

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in FUNCTIONS:
            self.called(FUNCTIONS[func])
        return func(*args, **(kwargs or {}))
