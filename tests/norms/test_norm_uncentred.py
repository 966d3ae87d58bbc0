"""Filter response norm, the EvoNorms and RMS norm: against timm and torch, and what their backward may do."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

import normzoo
from normzoo.norms._memory import reuse_memory
from normzoo.surgery.recalibrate import recalibrate
from tests.norms.norm_cases import CHANNELS, an_input, build
from tests.norms.uncentred_oracles import ORACLES

BATCH = ["evo_norm_b0", "evo_norm_b1", "evo_norm_b2"]
SAMPLE = ["evo_norm_s0", "evo_norm_s1", "evo_norm_s2"]
OURS = sorted(ORACLES)


def gradients(layer, x):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    weighting = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
    (y * weighting).sum().backward()
    return {"y": y.detach(), "x": x.grad, **{name: p.grad.clone() for name, p in layer.named_parameters()}}


def twin_in_timm(name):
    layers = pytest.importorskip("timm.layers")
    if name == "filter_response_norm":
        return layers.FilterResponseNormTlu2d(CHANNELS, eps=1e-6).double()
    kind = name[-2:].upper()
    groups = {"groups": 4} if kind[0] == "S" else {}
    return getattr(layers, f"EvoNorm2d{kind}")(CHANNELS, eps=1e-5, **groups).double()


@pytest.mark.parametrize("norm", [*BATCH, *SAMPLE, "filter_response_norm"])
def test_output_and_gradients_are_those_of_timm(norm):
    """With the same weights under the same names, over two batches in training and then in evaluation."""
    groups = {"num_groups": 4} if norm in SAMPLE else {}
    layer, twin = build(norm, **groups), twin_in_timm(norm)
    twin.load_state_dict(
        {key: value for key, value in layer.state_dict().items() if not key.endswith("batches_tracked")}
    )
    for training in (True, True, False):
        layer.train(training)
        twin.train(training)
        x = an_input(4)
        for key, value in gradients(twin, x).items():
            # timm takes the mean squares and variances in float32, whatever the dtype.
            torch.testing.assert_close(gradients(copy.deepcopy(layer), x)[key], value, rtol=1e-5, atol=1e-5)
        layer(x)
        if norm in BATCH:
            twin.running_var.copy_(layer.running_var)  # which two calls above have moved twice


@pytest.mark.parametrize("eps", [None, 1e-6])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rms_norm_is_that_of_torch(dtype, affine, eps):
    tiny = torch.full((1, 1), 1e-3, dtype=dtype)
    if eps is None and nn.functional.rms_norm(tiny, (1,)) < 0.5:
        pytest.skip("this version of torch takes the machine epsilon of bfloat16, though it computes in float32")
    layer = build("rms_norm", dtype, affine=affine, eps=eps, channel_dim=-1)
    twin = nn.RMSNorm(CHANNELS, eps, affine, dtype=dtype)
    twin.load_state_dict(layer.state_dict())
    x = (an_input(3).movedim(1, -1) * 1e-3).to(dtype)  # small, so that eps counts
    actual, step = gradients(layer, x), 8 * torch.finfo(dtype).eps
    for key, value in gradients(twin, x).items():
        bound = step * max(1.0, value.abs().max().item())
        torch.testing.assert_close(actual[key], value, rtol=step, atol=bound)
    assert isinstance(layer, nn.RMSNorm), "which weight-decay filters look for"


def test_rms_norm_of_tokens_is_that_of_images_with_the_channels_moved():
    image, tokens, x = build("rms_norm"), build("rms_norm", channel_dim=-1), an_input(4)
    tokens.load_state_dict(image.state_dict())
    torch.testing.assert_close(image(x).movedim(1, -1), tokens(x.movedim(1, -1)))


@pytest.mark.parametrize("norm", ["rms_norm", "filter_response_norm", "evo_norm_s2"])
def test_the_scale_of_the_input_is_lost(norm):
    """To the root mean square; what is gated by the input itself sees it again."""
    keywords = {"tlu": False} if norm == "filter_response_norm" else {}
    layer, x = build(norm, eps=1e-14, **keywords), an_input(4)
    same = torch.allclose(layer(7 * x), layer(x))
    assert same is (norm != "evo_norm_s2")


def test_s1_is_s0_with_v_of_one():
    general, special, x = build("evo_norm_s0"), build("evo_norm_s1"), an_input(4)
    general.load_state_dict({**special.state_dict(), "v": torch.ones(CHANNELS)})
    expected = gradients(special, x)
    actual = gradients(general, x)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value)


def test_s2_is_s1_where_groups_have_mean_zero():
    x = an_input(4)
    x = x.unflatten(1, (4, 2)).sub(x.unflatten(1, (4, 2)).mean((2, 3, 4), keepdim=True)).flatten(1, 2)
    one, other = build("evo_norm_s1"), build("evo_norm_s2")
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), other(x))


@pytest.mark.parametrize("shape", [(6, 8, 1, 1), (6, 8)])
@pytest.mark.parametrize("tlu", [True, False])
def test_learned_eps_takes_maps_of_one_value(shape, tlu):
    """There the layer is x / sqrt(x² + eps), of which eps is the only say in how steep it is."""
    x = torch.randn(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"a single value for each mean square.*learned_eps=True"):
        build("filter_response_norm", tlu=tlu)(x)
    layer = build("filter_response_norm", tlu=tlu, learned_eps=True)
    by_channel = (-1, *[1] * (len(shape) - 2))
    y = x / (x.square() + 1e-6 + layer.eps_l.abs()).sqrt() * layer.weight.view(by_channel) + layer.bias.view(by_channel)
    expected = y.maximum(layer.tau.view(by_channel)) if tlu else y
    torch.testing.assert_close(layer(x), expected)
    weights = torch.randn_like(x)
    (mine,) = torch.autograd.grad((layer(x) * weights).sum(), layer.eps_l)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), layer.eps_l)
    torch.testing.assert_close(mine, theirs)


def test_learned_eps_starts_at_the_paper_s_value():
    layer = normzoo.create("filter_response_norm", 4, learned_eps=True)
    assert layer.eps == 1e-6
    assert layer.eps_l.item() == pytest.approx(1e-4)
    assert layer.eps_l.dim() == 0


@pytest.mark.parametrize("norm", OURS)
def test_includes_its_activation(norm):
    assert getattr(normzoo.create(norm, 4), "includes_activation", False) is (norm != "rms_norm")


def test_without_the_threshold_an_activation_follows():
    assert normzoo.create("filter_response_norm", 4, tlu=False).includes_activation is False
    assert normzoo.create("filter_response_norm", 4).includes_activation is True


@pytest.mark.parametrize(("tau", "moves"), [(-0.5, False), (0.0, False), (0.5, True)])
def test_a_threshold_that_a_relu_follows_is_idle_up_to_zero(tau, moves):
    """Why the threshold stands in the ReLU's place: before one it changes nothing, and gets no gradient to change."""
    layer, x = normzoo.create("filter_response_norm", CHANNELS).double(), an_input(4)
    nn.init.constant_(layer.tau, tau)
    without = normzoo.create("filter_response_norm", CHANNELS, tlu=False).double()
    layer(x).square().sum().backward()
    assert layer.tau.grad.all() == (tau != 0), "on its own it has the gradient of all that lies below it"
    layer.zero_grad()
    y = layer(x).relu()
    y.sum().backward()
    assert torch.equal(y, without(x).relu()) is not moves
    assert layer.tau.grad.any() == moves


@pytest.mark.parametrize("norm", BATCH)
def test_running_variance_is_unbiased_and_recomputed(norm):
    layer, x = normzoo.create(norm, CHANNELS).double(), an_input(4)
    layer(x)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * x.var((0, 2, 3)))
    batches = [an_input(4) for _ in range(3)]
    recalibrate(layer, batches)
    torch.testing.assert_close(layer.running_var, torch.cat(batches).var((0, 2, 3)))
    assert layer.num_batches_tracked == 1
    assert layer.momentum == 0.1


@pytest.mark.parametrize("norm", BATCH)
def test_a_refusal_leaves_the_running_variance(norm):
    layer = build(norm)
    with pytest.raises(ValueError, match="a single value for each variance of the batch"):
        layer(torch.randn(1, CHANNELS, 1, 1, dtype=torch.float64))
    assert layer.num_batches_tracked == 0
    assert layer.eval()(torch.randn(1, CHANNELS, 1, 1, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("norm", SAMPLE)
def test_groups_are_those_of_group_norm(norm):
    assert [normzoo.create(norm, c).num_groups for c in (8, 13, 64, 48)] == [1, 1, 8, 6]
    with pytest.raises(ValueError, match="num_groups must be one of"):
        normzoo.create(norm, 12, num_groups=5)
    with pytest.raises(ValueError, match="a single value for each divisor"):
        normzoo.create(norm, 4, num_groups=4)(torch.randn(2, 4, 1, 1))


def test_gradients_of_evo_norm_b2_keep_their_digits_at_an_offset():
    """Its divisor is rms − x, and at 1e6 a float32 has steps of 1/16."""
    layer, x = build("evo_norm_b2", torch.float32), an_input(4, torch.float32) + 1e6
    exact = gradients(copy.deepcopy(layer).double(), x.double())
    for key, value in gradients(layer, x).items():
        torch.testing.assert_close(value.double(), exact[key], rtol=0, atol=2e-6 * exact[key].abs().max().item())


@pytest.mark.parametrize("norm", OURS)
def test_what_comes_after_may_work_in_place(norm):
    """As a residual connection does: the output is not what the backward needs."""
    layer, x = build(norm), an_input(4)
    expected = gradients(layer, x)
    again = x.clone().requires_grad_()
    weighting = torch.sin(torch.arange(x.numel(), dtype=x.dtype)).view(x.shape)
    y = layer(again)
    y += 1
    (y * weighting).sum().backward()
    torch.testing.assert_close(again.grad, expected["x"])


@pytest.mark.parametrize("norm", OURS)
def test_gradients_are_the_same_when_they_are_recorded(norm):
    """With create_graph the backward makes new tensors where it otherwise writes over its own; nor does it write g."""
    layer, x = build(norm), an_input(4)
    expected = gradients(layer, x)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    g = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
    kept = g.clone()
    (recorded,) = torch.autograd.grad(y, leaf, g, create_graph=True)
    torch.testing.assert_close(recorded, expected["x"])
    assert recorded.requires_grad
    assert torch.equal(g, kept)
    assert torch.equal(leaf, x)


@pytest.mark.parametrize("norm", OURS)
def test_vmap_over_one_parameter_alone(norm):
    """The others, and the input, are the same for all: nothing that is not batched may be written."""
    layer, x = build(norm).eval(), an_input(4)
    for name, parameter in layer.named_parameters():
        values = torch.stack([parameter.detach() * factor for factor in (0.5, 1.0, 2.0)])

        def output(value, name=name):
            return functional_call(layer, {name: value}, (x,))

        def loss(value, name=name):
            return functional_call(layer, {name: value}, (x,)).pow(3).sum()

        for function in (output, loss, grad(loss)):
            expected = torch.stack([function(value) for value in values])
            torch.testing.assert_close(vmap(function)(values), expected)


@pytest.mark.parametrize("norm", OURS)
def test_gradients_of_a_batch_of_losses(norm):
    """`is_grads_batched`, as in Jacobians: g is batched, and what was saved is not."""
    layer, x = build(norm), an_input(4).requires_grad_()
    y = layer(x)
    gs = torch.randn(3, *y.shape, dtype=y.dtype)
    (together,) = torch.autograd.grad(y, x, gs, is_grads_batched=True, retain_graph=True)
    for g, each in zip(gs, together, strict=True):
        torch.testing.assert_close(each, torch.autograd.grad(y, x, g, retain_graph=True)[0])


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("norm", OURS)
def test_vmap_has_rules_for_every_op(norm):
    replicas = [build(norm) for _ in range(3)]
    parameters, buffers = stack_module_state(replicas)

    def loss(parameters, buffers, x):
        return functional_call(replicas[0], (parameters, buffers), (x,)).square().sum()

    vmap(grad(loss))(parameters, buffers, torch.stack([an_input(4) for _ in replicas]))


@pytest.mark.parametrize("norm", OURS)
def test_saves_its_input_alone(norm):
    layer, x = build(norm, torch.float32), an_input(4, torch.float32, side=16).requires_grad_()
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    assert storages.pop(x.untyped_storage().data_ptr()) == x.nbytes
    per_statistic = CHANNELS if norm == "rms_norm" else 16**2
    assert sum(storages.values()) <= 5 * x.nbytes / per_statistic, "more than a few statistics and parameters"


def test_memory_is_reused_only_where_nothing_looks():
    plain = torch.ones(3)
    assert reuse_memory(plain)(plain) is None, "autograd records"
    with torch.no_grad():
        assert reuse_memory(plain, None)(plain) is plain
        assert vmap(lambda x: x if reuse_memory(x)(x) is None else 1 / 0)(plain).equal(plain)
        assert reuse_memory(torch.ones(3, device="meta"), nn.Parameter(plain))(plain) is plain
