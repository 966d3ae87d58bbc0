"""The loss, and its gradient, of a model at any parameters, measured on copies: nothing about the model changes."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.probes._batches import check_pair

Loss = Callable[[Any, Any], Tensor]
"""Called with the model's output and the target, gives a scalar: `torch.nn.functional.cross_entropy`."""

Batch = tuple[Any, Any]
"""The input, or a tuple of inputs, and the target."""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that take a gradient, by name; one that is shared has one name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def at(model: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model, in its mode and with its hooks, that has these values for its parameters.

    Buffers, and whatever else its layers keep, are copied; parameters that are not named are shared.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        value = parameters.get(name)
        memo[id(parameter)] = (
            parameter if value is None else nn.Parameter(value.detach().clone(), requires_grad=parameter.requires_grad)
        )
    trainer = getattr(model, "_trainer", None)
    if trainer is not None:  # a LightningModule: its trainer is no part of the model
        memo[id(trainer)] = trainer
    return copy.deepcopy(model, memo)


@contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """What is drawn inside (dropout, noise) is drawn again afterwards, on the devices of the model."""
    cuda = {parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(cuda)):
        yield


def output_of(model: nn.Module, inputs: Any) -> Any:
    """The model's output for an input, or for a tuple of inputs."""
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def loss_at(
    model: nn.Module, loss: Loss, batch: Batch, parameters: Mapping[str, Tensor], *, across: bool = False
) -> float:
    """The loss of the batch at these parameters; see `gradient_at`."""
    check_pair(batch)
    with same_random_numbers(model), torch.no_grad():
        value = loss(output_of(at(model, parameters), batch[0]), batch[1])
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
    """The loss of the batch at these parameters and its gradient there, zero for a parameter that it does not reach.

    The state of the layers and the random numbers are the same at each call: two calls compare two points of one
    function, also with dropout in it, or a norm that remembers.

    Args:
        parameters: As many of `trainable(model)` as are to differ from the model's own.
        of: The parameters to take the gradient by; all that are trainable unless given.
        across: Whether to average over all processes of the default group, which all must call then: the loss and the
            gradient are those of the step that data-parallel training takes.

    Raises:
        TypeError: If the batch is no pair of input and target.
    """
    check_pair(batch)
    with same_random_numbers(model), torch.enable_grad():
        point = at(model, {**trainable(model), **parameters})
        variables = {name: variable for name, variable in trainable(point).items() if of is None or name in of}
        value = loss(output_of(point, batch[0]), batch[1])
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
    """The mean over all processes of the default group; the value itself where there is none."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.contiguous().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def length(vectors: Mapping[str, Tensor]) -> float:
    """The l2 norm of all values together, in float64: β is a quotient of small differences."""
    squares = [vector.detach().double().square().sum() for vector in vectors.values()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """a − b, parameter by parameter, in float64."""
    return {name: a[name].detach().double() - b[name].detach().double() for name in a}
