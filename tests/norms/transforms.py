"""Several training steps under torch's transforms, for norms whose forward or backward reads a state that it moves."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from tests.norms.norm_cases import an_input


def train_step(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradients of input and parameters, and buffers after a training step."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    gradients = torch.autograd.grad(y.pow(3).sum(), [leaf, *layer.parameters()])
    return [y.detach(), *gradients, *(buffer.clone() for buffer in layer.buffers())]


def assert_same_compiled(eager: nn.Module, steps: int = 3) -> None:
    """A compiled backward must not start again from buffers that the forward has moved."""
    eager(an_input(4, torch.float32) + 1).sum().backward()
    twin = copy.deepcopy(eager)
    torch._dynamo.reset()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for step in range(steps):
        x = an_input(4, torch.float32) * (1 + step)
        torch.testing.assert_close(train_step(compiled, x), train_step(eager, x), rtol=1e-4, atol=1e-5)


def assert_replicas(replicas: list[nn.Module], steps: int = 3) -> None:
    """Stacked replicas that have come to different points do what they do one by one, in state as well."""
    for count, replica in enumerate(replicas):
        for _ in range(count):
            train_step(replica, an_input(4))
    weights, buffers = stack_module_state(replicas)
    base = copy.deepcopy(replicas[0])

    def loss(x: Tensor, weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(base, {**weights, **buffers}, (x,)).pow(3).sum()

    for _ in range(steps):
        x = torch.stack([an_input(4) for _ in replicas])
        grad_x = vmap(grad(loss))(x, weights, buffers)
        for i, replica in enumerate(replicas):
            _, expected, *_ = train_step(replica, x[i])
            torch.testing.assert_close(grad_x[i], expected)
            own = dict(replica.named_buffers())
            torch.testing.assert_close({key: value[i] for key, value in buffers.items()}, own)
