"""torch.compile, torch.export and vmap, where options or training lead through other code than the defaults."""

import copy

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from tests.norms.norm_cases import an_input, build


def train_step(layer, x):
    """Output, input gradient, parameter gradients and buffers after one step."""
    leaf = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(leaf)
    y.square().mul(leaf.detach()).sum().backward()
    return [y.detach(), leaf.grad, *(p.grad for p in layer.parameters()), *(b.clone() for b in layer.buffers())]


@pytest.mark.parametrize(
    ("norm", "keywords"),
    [
        ("batch_norm", {"momentum": None}),
        ("batch_norm_scratch", {"momentum": None}),
        ("batch_norm_scratch", {"moving_average_fraction": 0.9}),
        ("ghost_batch_norm", {"group_size": 4}),  # and two samples left over
        ("group_norm_scratch", {"num_groups": 2}),
    ],
    ids=str,
)
def test_compiles_into_one_graph(norm, keywords):
    """The buffers are part of it; without the code generator, which takes seconds a layer."""
    layer = build(norm, **keywords)
    eager = copy.deepcopy(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = an_input(4)
        torch.testing.assert_close(train_step(compiled, x), train_step(eager, x))


@pytest.mark.slow
def test_compiles_into_code():
    """The norms in a row, so that the code generator runs once."""
    names = ("batch_norm", "batch_norm_scratch", "group_norm_scratch", "layer_norm_channel", "ghost_batch_norm")
    model = torch.nn.Sequential(*(build(norm, momentum=None) for norm in names[:2]), *map(build, names[2:]))
    eager = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled, x = torch.compile(model, fullgraph=True), an_input(4)
    torch.testing.assert_close(train_step(compiled, x), train_step(eager, x))


@pytest.mark.parametrize("norm", ["batch_norm", "batch_norm_scratch", "ghost_batch_norm", "group_norm_scratch"])
def test_exports_in_training(norm):
    layer = build(norm, **({"momentum": None} if norm != "group_norm_scratch" else {}))
    program = torch.export.export(copy.deepcopy(layer), (an_input(4),))
    x = an_input(4)
    torch.testing.assert_close(program.module()(x), layer(x))


def test_trains_replicas_under_vmap(name, keywords):
    """Stacked replicas of a layer, each on its own batch, as one by one: gradients and buffers."""
    replicas = [build(name, **keywords) for _ in range(3)]
    parameters, buffers = stack_module_state(replicas)
    template = copy.deepcopy(replicas[0]).to("meta")
    inputs = [an_input(4) for _ in replicas]
    inputs = [x.movedim(1, -1) if keywords.get("channel_dim") == -1 else x for x in inputs]

    def loss(parameters, buffers, x):
        return functional_call(template, (parameters, buffers), (x,)).square().mul(x.detach()).sum()

    gradients, input_gradients = vmap(grad(loss, argnums=(0, 2)))(parameters, buffers, torch.stack(inputs))
    for i, (replica, x) in enumerate(zip(replicas, inputs, strict=True)):
        _, input_gradient, *_ = train_step(replica, x)
        torch.testing.assert_close(input_gradients[i], input_gradient)
        for key, parameter in replica.named_parameters():
            torch.testing.assert_close(gradients[key][i], parameter.grad)
        for key, buffer in replica.named_buffers():
            torch.testing.assert_close(buffers[key][i], buffer)


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("norm", ["batch_norm_scratch", "ghost_batch_norm", "group_norm_scratch"])
def test_vmap_has_rules_for_every_op(norm):
    """No op of forward, backward or the update of buffers falls back to a loop."""
    replicas = [build(norm) for _ in range(3)]
    parameters, buffers = stack_module_state(replicas)

    def loss(parameters, buffers, x):
        return functional_call(replicas[0], (parameters, buffers), (x,)).square().sum()

    x = torch.stack([an_input(4) for _ in replicas])
    vmap(grad(loss))(parameters, buffers, x)
