"""Hand-written backwards, one kernel a file, each equal to a plain equation of the same signature beside its layer.

The docstring of a kernel says what it gains, measured. Where only memory is at stake, `recomputed` serves instead. Both
step aside when torch looks at the operations (compile, export, torch.func): a compiler decides what to keep by itself.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from normzoo.norms._memory import is_transformed

Equation = TypeVar("Equation", bound=Callable[..., Any])


class Kernel(torch.autograd.Function):
    """A function with a hand-written backward, which can run within vmap on inputs that vmap has not wrapped."""

    generate_vmap_rule = True


def is_watched(*inputs: object) -> bool:
    """Tell whether torch looks at the operations on these inputs."""
    return torch.compiler.is_compiling() or any(isinstance(x, Tensor) and is_transformed(x) for x in inputs)


def _choose(equation: Equation, fast: Callable[..., Any]) -> Equation:
    @functools.wraps(equation)
    def compute(*inputs: Any, **options: Any) -> Any:
        return equation(*inputs, **options) if is_watched(*inputs) else fast(*inputs, **options)

    return compute  # type: ignore[return-value]


def computed_by(kernel: Callable[..., Any]) -> Callable[[Equation], Equation]:
    """Compute the decorated equation by a kernel of the same signature; `__wrapped__` is the equation."""
    return lambda equation: _choose(equation, kernel)


def recomputed(equation: Equation) -> Equation:
    """Save only the inputs of an equation and compute it again in the backward; `__wrapped__` is the equation."""
    return _choose(equation, functools.partial(_Recomputed.apply, equation))


class _Recomputed(Kernel):
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
