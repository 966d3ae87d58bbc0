"""torch.compile in one graph, torch.export, vmap over stacked replicas, autocast, and what a layer must leave alone."""

import copy

import pytest
import torch
from norm_cases import an_input, build
from torch.func import functional_call, grad, stack_module_state, vmap


def train_step(layer, x):
    """Output, input gradient, parameter gradients and buffers after one step."""
    leaf = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(leaf)
    y.square().mul(leaf.detach()).sum().backward()
    return [y.detach(), leaf.grad, *(p.grad for p in layer.parameters()), *(b.clone() for b in layer.buffers())]


def input_for(keywords, **options):
    x = an_input(4, **options)
    return x.movedim(1, -1) if keywords.get("channel_dim") == -1 else x


@pytest.mark.parametrize("training", [True, False])
def test_compiles_into_one_graph(name, keywords, training):
    """Forward and backward, with the buffers; without the code generator, which takes ten seconds a layer."""
    layer = build(name, **keywords).train(training)
    eager = copy.deepcopy(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = input_for(keywords)
    for _ in range(2):
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


@pytest.mark.parametrize("training", [True, False])
def test_exports(name, training):
    layer = build(name).train(training)
    program = torch.export.export(copy.deepcopy(layer), (an_input(4),))
    x = an_input(4)
    torch.testing.assert_close(program.module()(x), layer(x))


def test_exports_for_any_batch_size(name):
    layer = build(name).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (an_input(4),), dynamic_shapes=({0: batch},))
    x = an_input(4, samples=9)
    torch.testing.assert_close(program.module()(x), layer(x))


def test_trains_replicas_under_vmap(name, keywords):
    """Stacked replicas of a layer, each on its own batch, as one by one: gradients and buffers."""
    replicas = [build(name, **keywords) for _ in range(3)]
    parameters, buffers = stack_module_state(replicas)
    template = copy.deepcopy(replicas[0]).to("meta")
    inputs = [input_for(keywords) for _ in replicas]

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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(name, dtype):
    layer, x = build(name, torch.float32), an_input(4, torch.float32)
    expected = copy.deepcopy(layer)(x)
    with torch.autocast("cpu", dtype):
        for values in (x, x.to(dtype)):
            y = layer(values.requires_grad_())
            torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
            y.float().square().sum().backward()
            assert values.grad.dtype == values.dtype


def test_leaves_alone_what_is_not_its_own(name):
    """The input, the random number generator, the grad mode."""
    layer, x = build(name), an_input(4)
    before, rng = x.clone(), torch.get_rng_state()
    with torch.no_grad():
        assert not layer(x).requires_grad
    with torch.inference_mode():
        layer.eval()(x)
    assert torch.is_grad_enabled()
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), rng)
