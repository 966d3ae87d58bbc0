"""Compute loss and gradient of a model at given parameters, on copies; the model does not change."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.probes._batches import check_pair

Loss = Callable[[Any, Any], Tensor]
"""Called with output and target, returns a scalar, such as `torch.nn.functional.cross_entropy`."""

Batch = tuple[Any, Any]
"""An input, or a tuple of inputs, and the target."""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name; a shared parameter appears once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copy_with(model: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """Copy the model, with its mode and hooks, and with these values for its parameters.

    Buffers and other state are copied; parameters that are not named are shared.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        value = parameters.get(name)
        memo[id(parameter)] = (
            parameter if value is None else nn.Parameter(value.detach().clone(), requires_grad=parameter.requires_grad)
        )
    trainer = getattr(model, "_trainer", None)
    if trainer is not None:  # do not copy the trainer of a LightningModule
        memo[id(trainer)] = trainer
    return copy.deepcopy(model, memo)


@contextmanager
def keep_rng_state(model: nn.Module) -> Iterator[None]:
    """Restore the RNG state of the model's devices on exit."""
    cuda = {parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(cuda)):
        yield


def output_of(model: nn.Module, inputs: Any) -> Any:
    """Call the model with an input or a tuple of inputs."""
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def loss_at(
    model: nn.Module, loss: Loss, batch: Batch, parameters: Mapping[str, Tensor], *, across: bool = False
) -> float:
    """Return the loss of the batch at these parameters; see `gradient_at`."""
    check_pair(batch)
    with keep_rng_state(model), torch.no_grad():
        value = loss(output_of(copy_with(model, parameters), batch[0]), batch[1])
    return float(mean_over_processes(value) if across else value)


def gradient_at(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    parameters: Mapping[str, Tensor],
    *,
    of: Sequence[str] | None = None,
    across: bool = False,
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of the batch at these parameters, and its gradient, zero for parameters it does not depend on.

    Each call starts from the same layer state and the same random numbers, so that two calls compare two points of one
    function, even with dropout or a norm that keeps state.

    Args:
        model: Model to differentiate; it does not change.
        loss: `loss(output, target)`, a scalar.
        batch: Input and target.
        parameters: Values that differ from the model's own, by name.
        of: Names of the parameters to differentiate by; None for all trainable ones.
        across: Whether to average over all processes of the default group, all of which must call: loss and gradient
            are then those of a data-parallel training step.

    Raises:
        TypeError: If the batch is not a pair (input, target).
    """
    check_pair(batch)
    with keep_rng_state(model), torch.enable_grad():
        twin = copy_with(model, {**trainable(model), **parameters})
        variables = {name: variable for name, variable in trainable(twin).items() if of is None or name in of}
        value = loss(output_of(twin, batch[0]), batch[1])
        gradients = torch.autograd.grad(value, list(variables.values()), allow_unused=True)
    value = value.detach()
    found = {
        name: torch.zeros_like(variable) if gradient is None else gradient
        for (name, variable), gradient in zip(variables.items(), gradients, strict=True)
    }
    if across:
        value = mean_over_processes(value)
        found = {name: mean_over_processes(gradient) for name, gradient in found.items()}
    return float(value), found


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean over all processes of the default group; the value itself without a group."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.contiguous().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def l2_norm(vectors: Mapping[str, Tensor]) -> float:
    """Return the L2 norm of all values together, in float64: β is a quotient of small differences."""
    squares = [vector.detach().double().square().sum() for vector in vectors.values()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the difference a − b of each parameter, in float64."""
    return {name: a[name].detach().double() - b[name].detach().double() for name in a}
