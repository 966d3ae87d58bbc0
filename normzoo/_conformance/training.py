"""What training does with a norm: a gradient scaler, an overflow, activation checkpointing."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from normzoo._conformance.subject import EXACT, Given, Subject, run, same


def survives_overflow(norm: Subject) -> None:
    """A backward that overflows, as under a gradient scaler, leaves the state and the next step's gradients finite."""
    layer, _ = norm.modes()
    for bound in (torch.inf, 1.0, 1.0):
        given = [t.requires_grad_(t.is_floating_point()) for t in norm.given()]
        y = layer(*given)
        gradient = torch.ones_like(y).index_fill_(0, torch.tensor(0, device=y.device), bound)
        leaves = [t for t in (*given, *layer.parameters()) if t.requires_grad]
        grads = torch.autograd.grad(y, leaves, gradient, allow_unused=True, materialize_grads=True)
        for name, buffer in layer.named_buffers():
            assert buffer.isfinite().all(), f"{name} is not finite after a gradient of {bound}"
        if bound == 1:
            assert all(grad.isfinite().all() for grad in grads), "a gradient of the next steps is not finite"


def follows_loss_scale(norm: Subject) -> None:
    """Gradients are proportional to the scale of the loss, also when it changes, as that of a gradient scaler does.

    A layer that keeps statistics of the gradient is told the scale by its attribute `loss_scale`.
    """
    layer, _ = norm.modes()
    twin = copy.deepcopy(layer)
    for step, scale in enumerate((1024.0, 1024.0, 64.0, 4096.0)):
        given = norm.given(seed=step)
        for module in layer.modules():
            if hasattr(module, "loss_scale"):
                module.loss_scale = scale  # type: ignore[assignment]
        y, *grads = run(lambda *given, scale=scale: layer(*given) * scale, given, layer.parameters())
        expected = run(twin, given, twin.parameters())
        same([y / scale, *(grad / scale for grad in grads)], expected, f"a loss times {scale}", EXACT)


def recomputes(norm: Subject) -> None:
    """Under activation checkpointing of either kind the gradients are those without, or a RuntimeError names the layer.

    A forward that torch.utils.checkpoint runs again, in the backward, finds state that the first run has moved.
    """
    for reentrant in (False, True):
        layer, _ = norm.modes()
        twin = copy.deepcopy(layer)

        def again(function: Callable[..., Tensor], *given: Tensor, reentrant: bool = reentrant) -> Tensor:
            recomputed: Any = checkpoint(function, *given, use_reentrant=reentrant)
            return recomputed

        try:
            for seeds in ((0,), (1,), (2, 3)):  # at the end two forwards before the backwards of both
                given = [norm.given(seed=seed) for seed in seeds]
                actual = gradients(layer, given, again)
                expected = gradients(twin, given, lambda function, *given: function(*given))
                same(actual, expected, f"use_reentrant={reentrant}", EXACT)
        except RuntimeError as error:
            if not any(type(module).__name__ in str(error) for module in layer.modules()):
                raise


def gradients(layer: nn.Module, batches: list[Given], call: Callable[..., Tensor]) -> list[Tensor]:
    """Those of inputs and parameters, of a loss over batches, by a backward over all of the graph."""
    layer.zero_grad()
    batches = [tuple(t.detach().requires_grad_(t.is_floating_point()) for t in given) for given in batches]
    # The sine after the layer is what a wrong output would lead astray.
    losses = [call(lambda *given: layer(*given).sin(), *given).square().sum() for given in batches]
    torch.stack(losses).sum().backward()
    leaves = [t for t in (*(t for given in batches for t in given), *layer.parameters()) if t.requires_grad]
    return [torch.zeros(()), *(torch.zeros_like(t) if t.grad is None else t.grad.clone() for t in leaves)]
