"""Watch one run of a model: what each layer gets, which layer gave it, and what else uses it."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # documented under "Extending PyTorch"

from normzoo.surgery.batches import Forward, run_batch, same_random_numbers
from normzoo.surgery.norm_functions import FunctionCalls
from normzoo.surgery.report import SurgeryError
from normzoo.surgery.running import frozen

OUTPUT = "the model's output"


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a watched layer.

    Attributes:
        input: A copy of what it got, in the same layout; `source` is the call whose output that was, or a view of it.
        output: What it gave.
        users: The layers that computed with the output itself, and `OUTPUT`; None for code outside of any layer.
        operations: What they computed, by torch's names of operations, such as `relu`.
    """

    layer: nn.Module
    input: Tensor
    source: "Call | None"
    output: Tensor | None = None
    users: list[nn.Module | str | None] = dataclasses.field(default_factory=list)
    operations: list[str] = dataclasses.field(default_factory=list)


class _Watch(TorchDispatchMode):
    """Note for each operation which outputs of watched layers it computes with, other than to view them."""

    def __init__(self, model: nn.Module, watched: Collection[nn.Module]) -> None:
        super().__init__()
        self.model, self.watched = model, watched
        self.copying = False
        self.stack: list[nn.Module] = []
        self.open: list[Call] = []
        self.calls: list[Call] = []
        self.given: dict[int, Call] = {}  # by the memory of the output, which is kept
        self.functions: dict[tuple[nn.Module, str], None] = {}

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module in self.model.modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    enter, leave = (self._enter, self._leave) if module in self.watched else (self._push, self._pop)
                    stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                    stack.callback(module.register_forward_hook(leave, always_call=True).remove)
            yield

    def function(self, name: str) -> None:
        """Note a function of a norm that is called outside of the watched layers."""
        if not self.open:
            self.functions[self.stack[-1] if self.stack else self.model, name] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.copying:
            return result
        memory = {_memory(t) for t in tensors_in(result)}
        for call in {self.given[m] for m in map(_memory, tensors_in([args, kwargs])) if m in self.given}:
            assert call.output is not None
            views = _memory(call.output) in memory and not func._schema.is_mutable
            if not views:
                call.users.append(self.stack[-1] if self.stack else None)
                call.operations.append(func.overloadpacket.__name__)
        return result

    def _push(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.stack.append(module)

    def _pop(self, module: nn.Module, args: Any, result: Any) -> None:
        self.stack.pop()

    def _enter(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        self.copying = True
        x = next(tensors_in([args, kwargs]), torch.empty(0))
        self.open.append(Call(layer, x.clone(), self.given.get(_memory(x)) if x.numel() else None))
        self.stack.append(layer)
        self.copying = False

    def _leave(self, layer: nn.Module, args: Any, result: Any) -> None:
        self.stack.pop()
        call = self.open.pop()
        self.calls.append(call)
        if isinstance(result, Tensor) and result.numel():
            call.output = result
            self.given[_memory(result)] = call


def observe(
    model: nn.Module, watched: Collection[nn.Module], sample: Any, forward: Forward | None = None
) -> tuple[list[Call], list[tuple[nn.Module, str]]]:
    """Run a model on a sample in evaluation, and leave it as it was.

    Args:
        model: The model.
        watched: The layers to watch.
        sample: One batch, as for `recalibrate`.
        forward: How to call the model on it, if not as there.

    Returns:
        The calls of the watched layers in their order; and the functions of norms that are called outside of these,
        with the modules that call them.

    Raises:
        SurgeryError: If the model cannot take the sample.
    """
    watch = _Watch(model, watched)
    try:
        with (
            unchanged(model),
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),
            same_random_numbers(model),
            watch.hooked(),
            FunctionCalls(watch.function),
            watch,
        ):
            for module in model.modules():  # not by eval(), which a model may have changed
                module.training = False
            result = (forward or run_batch)(model, sample)
    except Exception as error:
        raise SurgeryError(f"{type(model).__name__} cannot take the sample: {type(error).__name__}: {error}") from error
    for tensor in tensors_in(result):
        if _memory(tensor) in watch.given:
            watch.given[_memory(tensor)].users.append(OUTPUT)
    return watch.calls, list(watch.functions)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put buffers and modes back at the end, and what frozen layers remember of these."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not buffer.is_meta]
    modes = [(module, module.training) for module in model.modules()]
    memories = [(memory, memory.mode) for module in model.modules() if (memory := frozen(module)) is not None]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, training in modes:
            module.training = training
        for memory, mode in memories:
            memory.mode = mode


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Yield the tensors within lists, tuples, mappings and the fields of data classes, such as a model's output."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from tensors_in(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors_in(value)
    elif dataclasses.is_dataclass(values) and not isinstance(values, type):
        yield from tensors_in(list(vars(values).values()))
