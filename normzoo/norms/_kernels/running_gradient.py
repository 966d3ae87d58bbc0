"""Gradients that are not derivatives: a rule of the paper's, from state that runs from one backward to the next.

No plain function can have such a gradient, so this is here for what it computes and not for time or memory.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from normzoo.norms._kernels import Kernel
from normzoo.norms._running import commit


def with_gradient(rule: Callable[..., tuple[Tensor, ...]]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Give the decorated function y(x, *constants) the gradient that a rule computes; `__wrapped__` is the function.

    The rule is `rule(grad, y, *state, *constants) -> grad_x, *new_state`, with `grad` the gradient that arrives at y.
    All that it sees is at least float32. Call the function with `state=`, the buffers that a backward moves, and
    `scale=`, what the loss is multiplied by: the buffers keep their values of the loss itself.
    """

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        class Ruled(Kernel):
            @staticmethod
            def forward(states: int, scale: float | Tensor, x: Tensor, *given: Any) -> Tensor:
                return function(x, *given[states:])

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
                # The state is not saved but referred to: a second backward is to find it as the first one left it.
                states, ctx.scale, _, *given = inputs
                ctx.state, constants = given[:states], given[states:]
                ctx.options = [None if isinstance(value, Tensor) else value for value in constants]
                ctx.save_for_backward(output, *[v if isinstance(v, Tensor) else None for v in constants])

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
                y, *tensors = ctx.saved_tensors
                constants = [o if t is None else t for t, o in zip(tensors, ctx.options, strict=True)]
                wide = torch.promote_types(y.dtype, torch.float32)
                state = [buffer.to(wide) * ctx.scale for buffer in ctx.state]
                grad_x, *new = rule(grad.to(wide), y.to(wide), *state, *constants)
                commit(*[(buffer, value / ctx.scale) for buffer, value in zip(ctx.state, new, strict=True)])
                return None, None, grad_x.to(grad.dtype), *[None] * (len(state) + len(constants))

        @functools.wraps(function)
        def compute(x: Tensor, *constants: Any, state: Sequence[Tensor], scale: float | Tensor) -> Tensor:
            return Ruled.apply(len(state), scale, x, *state, *constants)

        return compute

    return decorate
