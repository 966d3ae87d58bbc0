"""Calls of a norm: refused if they lack a tensor, and one node in a graph of torch.fx, as torch's own layers are."""

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy

from normzoo.validation import ArgumentTypeError


def wrap_call(build: type[nn.Module]) -> None:
    """Let a class check what its layers are called with, and let calls by tracers of torch.fx become a node each.

    Which modules are leaves is up to the tracer, and by default all but those of `torch.nn` are traced through, where
    a `forward` may branch on its input. But a tracer asks its modules by calling them, with proxies in the place of
    tensors. Subclasses inherit both.
    """
    if build.__module__.startswith("torch.nn") or getattr(build.__call__, "is_wrapped", False):
        return
    call = build.__call__

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if not given or not isinstance(given[0], Proxy):
            check_given(self, given)
            return call(self, *args, **kwargs)
        tracer: Any = given[0].tracer

        def as_node(*args: Any, **kwargs: Any) -> Any:
            return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)

        return tracer.call_module(self, as_node, args, kwargs)

    __call__.is_wrapped = True  # type: ignore[attr-defined]
    build.__call__ = __call__  # type: ignore[method-assign]


def check_given(layer: nn.Module, given: tuple[Any, ...]) -> None:
    """Check that a layer is called with a tensor, and a conditional norm with a condition as well.

    Raises:
        ArgumentTypeError: A TypeError that names the layer and what it got.
    """
    wanted = ("input", "condition") if hasattr(type(layer), "example_condition") else ("input",)
    if all(isinstance(value, Tensor) for value in given[: len(wanted)]) and len(given) >= len(wanted):
        return
    got = ", ".join(type(value).__name__ for value in given) or "nothing"
    raise ArgumentTypeError(
        f"{type(layer).__name__} must be called with a tensor for {' and '.join(wanted)}, as "
        f"layer({', '.join(wanted)}); got {got}"
    )
