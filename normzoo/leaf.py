"""A norm in a graph of torch.fx: one node, as torch's own layers are, and not the operations it is made of."""

from typing import Any

from torch import nn
from torch.fx import Proxy


def make_leaf(build: type[nn.Module]) -> None:
    """Let calls of a class's layers by tracers of torch.fx become a node each: a `forward` may branch on its input.

    Which modules are leaves is up to the tracer, and by default all but those of `torch.nn` are traced through. But a
    tracer asks its modules by calling them, with proxies in the place of tensors. Subclasses are leaves too.
    """
    if build.__module__.startswith("torch.nn") or getattr(build.__call__, "of_leaf", False):
        return
    call = build.__call__

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(x, Proxy):
            return call(self, *args, **kwargs)
        tracer: Any = x.tracer

        def as_node(*args: Any, **kwargs: Any) -> Any:
            return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)

        return tracer.call_module(self, as_node, args, kwargs)

    __call__.of_leaf = True  # type: ignore[attr-defined]
    build.__call__ = __call__  # type: ignore[method-assign]
