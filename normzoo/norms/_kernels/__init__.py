"""Hand-written autograd, one kernel a file, each equal to an equation that stands where the layer does.

A kernel is here because it was measured to pay: its docstring says how much. Where only memory is at stake `recomputed`
serves, which needs none. When torch looks at the operations (compiled, exported, transformed by torch.func), both leave
the equation as it is: a compiler decides by itself what is kept.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from normzoo.norms._reuse import is_transformed

Equation = TypeVar("Equation", bound=Callable[..., Any])


def is_watched(*inputs: object) -> bool:
    """Tell whether torch looks at the operations on these inputs."""
    return torch.compiler.is_compiling() or any(isinstance(x, Tensor) and is_transformed(x) for x in inputs)


def computed_by(kernel: Callable[..., Any]) -> Callable[[Equation], Equation]:
    """Compute the decorated equation by a kernel of the same signature; `__wrapped__` is the equation."""

    def decorate(equation: Equation) -> Equation:
        @functools.wraps(equation)
        def compute(*inputs: Any) -> Any:
            return equation(*inputs) if is_watched(*inputs) else kernel(*inputs)

        return compute  # type: ignore[return-value]

    return decorate


class _Recomputed(torch.autograd.Function):
    generate_vmap_rule = True  # of inputs that vmap has not wrapped, where it has others of the layer

    @staticmethod
    def forward(equation: Callable[..., Any], *inputs: Any) -> Any:
        return equation(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.equation, *given = inputs
        ctx.options = [None if isinstance(value, Tensor) else value for value in given]
        ctx.save_for_backward(*[value if isinstance(value, Tensor) else None for value in given])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        given = [o if t is None else t for t, o in zip(ctx.saved_tensors, ctx.options, strict=True)]
        wanted = [place for place, needed in enumerate(ctx.needs_input_grad[1:]) if needed]

        def of_wanted(*values: Tensor) -> Any:
            inputs = list(given)
            for place, value in zip(wanted, values, strict=True):
                inputs[place] = value
            return ctx.equation(*inputs)

        pull_back = torch.func.vjp(of_wanted, *[given[place] for place in wanted])[1]
        found = dict(zip(wanted, pull_back(grads[0] if len(grads) == 1 else grads), strict=True))
        return None, *[found.get(place) for place in range(len(given))]


def recomputed(equation: Equation) -> Equation:
    """Keep the inputs of an equation alone for its gradient, which computes it again; `__wrapped__` is the equation."""

    @functools.wraps(equation)
    def compute(*inputs: Any) -> Any:
        return equation(*inputs) if is_watched(*inputs) else _Recomputed.apply(equation, *inputs)

    return compute  # type: ignore[return-value]
