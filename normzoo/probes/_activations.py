"""Observe the input of each activation function of a model, whether it is a module or a function call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from normzoo.probes._gradients import copy_with, keep_rng_state, output_of
from normzoo.probes._layers import all_norms

# Keyed by the outermost function: a module such as nn.ReLU calls it too.
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
"""Called with an activation's name, kind (relu, sigmoid, tanh, other) and input."""


def watch_activations(model: nn.Module, inputs: Any, observer: Observer) -> None:
    """Run a copy of the model once, and pass each activation's input to `observer` in the order of the calls.

    An activation is named after the module that calls it; its further calls are named `#2` and so on. Activations
    within norms (the gate of EvoNorm) and within fused operations (`nn.LSTM`) are left out.
    """
    twin = copy_with(model, {})
    norms = {path or "model" for path, _ in all_norms(twin)}
    running: list[str] = []
    for path, module in twin.named_modules():
        module.register_forward_pre_hook(lambda _, __, path=path or "model": running.append(path))
        module.register_forward_hook(lambda *_: _drop_last(running), always_call=True)

    calls: dict[str, int] = {}

    def see(kind: str, x: Tensor) -> None:
        if norms.intersection(running):
            return
        path = running[-1]
        calls[path] = calls.get(path, 0) + 1
        observer(path if calls[path] == 1 else f"{path}#{calls[path]}", kind, x.detach())

    with keep_rng_state(model), _Watch(see):
        output_of(twin, inputs)


def _drop_last(running: list[str]) -> None:
    # A forward hook must not return the popped value: it would replace the module's output.
    running.pop()


class _Watch(TorchFunctionMode):
    """Pass on the input of an activation function before it runs: an in-place one overwrites it."""

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
