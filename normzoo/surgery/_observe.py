"""Watch a model run one batch: the shapes of its norms' inputs, and norms that are functions, not layers."""

import contextlib
import dis
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normzoo.surgery.batches import run_batch, same_random_numbers
from normzoo.surgery.report import SurgeryError

NAMES = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm")
FUNCTIONS = {getattr(place, name): name for place in (torch, F) for name in NAMES if hasattr(place, name)}


def functions_in_code(model: nn.Module, norms: Mapping[nn.Module, str]) -> list[tuple[str, str]]:
    """Return the functions of norms that the code of modules other than `norms` names, with the modules' names."""
    found = []
    within = {inner for norm in norms for inner in norm.modules()}
    for name, module in model.named_modules():
        if module in within or type(module).__module__.startswith("torch.nn."):
            continue
        kinds = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
        functions = [f for kind in kinds for f in vars(kind).values() if isinstance(f, types.FunctionType)]
        found += [(name, function) for function in sorted({called for f in functions for called in _named(f)})]
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


class _Functions(TorchFunctionMode):
    """Note the norms' functions that are called outside of norms."""

    def __init__(self, running: list[tuple[str, bool]]) -> None:
        super().__init__()
        self.running = running
        self.found: dict[tuple[str, str], None] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in FUNCTIONS and not any(is_norm for _, is_norm in self.running):
            self.found[self.running[-1][0] if self.running else "", FUNCTIONS[func]] = None
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def observe(
    model: nn.Module, norms: Mapping[nn.Module, str], sample: Any
) -> tuple[dict[nn.Module, torch.Size], list[tuple[str, str]]]:
    """Run one batch in evaluation, and return shapes by norm, and functions called; the model is as before.

    Args:
        model: The model.
        norms: The names of its norms.
        sample: Its input; a tuple or list for several, a dict for keywords.

    Raises:
        SurgeryError: If the model cannot take it.
    """
    shapes: dict[nn.Module, torch.Size] = {}
    running: list[tuple[str, bool]] = []
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not buffer.is_meta]
    watch = _Functions(running)

    def enter(module: nn.Module, given: tuple[Any, ...]) -> None:
        running.append((names[module], module in norms))
        if module in norms and given and isinstance(given[0], Tensor):
            shapes[module] = given[0].shape

    def leave(module: nn.Module, given: Any, output: Any) -> None:
        running.pop()

    names = {module: name for name, module in model.named_modules() if not isinstance(module, torch.jit.ScriptModule)}
    with contextlib.ExitStack() as stack:
        for module in names:
            for handle in (
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave, always_call=True),
            ):
                stack.callback(handle.remove)
        stack.enter_context(same_random_numbers(model))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, _ in modes:  # not by eval(), which a frozen layer would remember
                module.training = False
            with watch:
                run_batch(model, sample)
        except Exception as error:
            raise SurgeryError(
                f"{type(model).__name__} cannot take the sample: {type(error).__name__}: {error}"
            ) from error
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)
            for module, mode in modes:
                module.training = mode
    return shapes, list(watch.found)
