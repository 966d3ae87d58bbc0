"""Seeing what goes into each activation function of a model, be it a module or a function that a forward calls."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from normzoo.probes._layers import all_norms
from normzoo.probes._point import at, output_of, same_random_numbers

# By the function that is called first: a module calls the function of the same name, and that is the one to be seen.
KINDS: dict[Any, str] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6), "relu"),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_), "sigmoid"),
    **dict.fromkeys((torch.special.expit,), "sigmoid"),
    **dict.fromkeys((F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_), "tanh"),
    **dict.fromkeys((F.leaky_relu, F.rrelu, torch.rrelu, F.prelu, torch.prelu, F.elu, F.celu, F.selu), "other"),
    **dict.fromkeys((F.gelu, F.silu, F.mish, F.softplus, F.softsign, F.logsigmoid, F.tanhshrink), "other"),
    **dict.fromkeys((F.hardtanh, F.hardsigmoid, F.hardswish), "other"),
}

Observer = Callable[[str, str, Tensor], None]
"""Called with the name of the activation, its kind (relu, sigmoid, tanh, other) and its input."""


def watch_activations(model: nn.Module, inputs: Any, observer: Observer) -> None:
    """Run the model once, on a copy, and show each activation's input to `observer`, in the order of the calls.

    An activation is named by the module in which it is called, with `#2` and so on from its second call. Those within
    norms are left out (the gate of EvoNorm, say), and so are those within one fused operation, as in `nn.LSTM`.
    """
    point = at(model, {})
    norms = {path or "model" for path, _ in all_norms(point)}
    running: list[str] = []
    for path, module in point.named_modules():
        module.register_forward_pre_hook(lambda _, __, path=path or "model": running.append(path))
        module.register_forward_hook(lambda *_: _drop_last(running), always_call=True)

    calls: dict[str, int] = {}

    def see(kind: str, x: Tensor) -> None:
        if norms.intersection(running):
            return
        path = running[-1]
        calls[path] = calls.get(path, 0) + 1
        observer(path if calls[path] == 1 else f"{path}#{calls[path]}", kind, x.detach())

    with same_random_numbers(model), _Watch(see):
        output_of(point, inputs)


def _drop_last(running: list[str]) -> None:
    # A hook that returned what pop() returns would put it in the place of the module's output.
    running.pop()


class _Watch(TorchFunctionMode):
    """Shows the input of activation functions before they run, and so before one of them overwrites it."""

    def __init__(self, see: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = KINDS.get(func)
        if kind is not None:
            self.see(kind, args[0] if args else kwargs["input"])
        return func(*args, **kwargs)
