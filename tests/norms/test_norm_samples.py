"""Norms of a sample alone, or a value alone: against torch and timm, against each other, at their limits."""

import copy

import pytest
import torch
from torch import nn

import normzoo
from normzoo.norms.positional_norm import moment_shortcut
from tests.norms.norm_cases import CHANNELS, an_input, build
from tests.norms.sample_oracles import ORACLES


def outputs_and_gradients(layer, x, g):
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], g)]


@pytest.mark.parametrize("norm", sorted(ORACLES))
def test_saves_at_most_two_activations(norm):
    layer, x = build(norm, torch.float32, channels=32), an_input(4, torch.float32, samples=8, side=8, channels=32)
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x.requires_grad_())
    activations = {"dynamic_erf": 2, "dynamic_tanh": 2}.get(norm, 1)
    # What is kept for each position, such as a mean, is a 32nd of an activation.
    assert sum(storages.values()) <= (activations + 0.35) * x.numel() * 4
    y.sum().backward()


@pytest.mark.parametrize("norm", ["scale_norm", "unit_norm", "pixel_norm"])
def test_lengths(norm):
    layer, x = normzoo.create(norm, CHANNELS).double(), an_input(4)
    length = {"scale_norm": 8**0.5, "unit_norm": 8**0.25, "pixel_norm": 8**0.5}[norm]
    y = layer(x)
    torch.testing.assert_close(y.norm(dim=1), torch.full_like(y[:, 0], length))
    torch.testing.assert_close(y / length, nn.functional.normalize(x, dim=1))
    torch.testing.assert_close(layer(-1e3 * x), -y)


@pytest.mark.parametrize("norm", ["scale_norm", "unit_norm", "pixel_norm", "global_response_norm"])
def test_a_position_of_zeros_has_a_gradient(norm):
    """As where a padded image is black and no bias follows."""
    layer, x = build(norm), an_input(4)
    x[:, :, 0] = 0
    x[0] = 0
    results = outputs_and_gradients(layer, x, torch.randn_like(x))
    assert all(tensor.isfinite().all() for tensor in results)
    if norm != "global_response_norm":
        assert not results[0][:, :, 0].any()


@pytest.mark.parametrize("norm", ["scale_norm", "unit_norm", "pixel_norm"])
@pytest.mark.parametrize("keywords", [{}, {"channel_dim": -1}], ids=str)
def test_one_channel_is_refused(norm, keywords):
    layer = normzoo.create(norm, 1, **keywords)
    with pytest.raises(normzoo.UserError, match=r"a single value for each length.*a number or its negative.*more chan"):
        layer(torch.randn(4, 1, 1))


def test_learned_exponent():
    layer, x = normzoo.create("unit_norm", CHANNELS, k=1.5, learnable_k=True).double(), an_input(4)
    assert [key for key, _ in layer.named_parameters()] == ["k"]
    assert normzoo.create("unit_norm", CHANNELS).state_dict() == {}
    y = layer(x)
    torch.testing.assert_close(y, normzoo.create("unit_norm", CHANNELS, k=1.5)(x))
    y.pow(3).sum().backward()
    log = torch.tensor(CHANNELS, dtype=torch.float64).log()
    torch.testing.assert_close(layer.k.grad, (1.5 * log * y.detach().pow(3).sum()).reshape(1))


@pytest.mark.parametrize("keywords", [{}, {"channel_dim": -1}, {"affine": False}], ids=str)
def test_positional_norm_hands_out_what_it_took_away(keywords):
    layer = build("positional_norm", **keywords)
    x = an_input(4).movedim(1, -1) if "channel_dim" in keywords else an_input(4)
    dim = keywords.get("channel_dim", 1)
    leaf = x.clone().requires_grad_()
    y, mean, std = layer.with_moments(leaf)
    torch.testing.assert_close(y, layer(x))
    torch.testing.assert_close(mean, x.mean(dim, keepdim=True))
    torch.testing.assert_close(std, (x.var(dim, keepdim=True, correction=0) + layer.eps).sqrt())
    if not keywords.get("affine", True):
        torch.testing.assert_close(moment_shortcut(y, mean, std), x)
        assert torch.autograd.gradcheck(lambda x: torch.cat(layer.with_moments(x), dim=1), leaf, fast_mode=True)


def test_positional_norm_is_layer_norm_of_channels():
    one, other, x = build("positional_norm"), build("layer_norm_channel"), an_input(4)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)
    with pytest.raises(normzoo.UserError, match="more channels"):
        normzoo.create("positional_norm", 1).with_moments(torch.randn(4, 1, 2))


@pytest.mark.parametrize("dimensions", [3, 4, 5])
@pytest.mark.parametrize("keywords", [{}, {"size": 1}, {"size": 4, "k": 1.0, "alpha": 0.5}, {"size": 15, "beta": 2.0}])
def test_local_response_norm_agrees_with_torch(dimensions, keywords):
    layer, x = normzoo.create("local_response_norm", CHANNELS, **keywords), an_input(dimensions)
    assert isinstance(layer, nn.LocalResponseNorm)
    theirs = nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
    g = torch.randn_like(x)
    torch.testing.assert_close(outputs_and_gradients(layer, x, g), outputs_and_gradients(theirs, x, g))


def test_local_response_norm_has_the_constants_of_the_paper():
    layer = normzoo.create("local_response_norm", CHANNELS)
    assert (layer.size, layer.beta, layer.k) == (5, 0.75, 2.0)
    assert layer.alpha / layer.size == 1e-4
    with pytest.raises(normzoo.UserError, match="size is a number of channels, 1 or more; got 0"):
        normzoo.create("local_response_norm", CHANNELS, size=0)


def test_local_response_norm_does_not_overflow_in_half_precision():
    y = normzoo.create("local_response_norm", CHANNELS)(torch.full((1, CHANNELS, 1), 1e3, dtype=torch.float16))
    assert y.isfinite().all()


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_global_response_norm_agrees_with_timm(channel_dim):
    grn = pytest.importorskip("timm.layers.grn").GlobalResponseNorm
    theirs = grn(CHANNELS, channels_last=channel_dim == -1).double()
    ours = build("global_response_norm", channel_dim=channel_dim)
    theirs.load_state_dict(ours.state_dict())
    x = an_input(4) if channel_dim == 1 else an_input(4).movedim(1, -1).contiguous()
    g = torch.randn_like(x)
    torch.testing.assert_close(outputs_and_gradients(ours, x, g), outputs_and_gradients(theirs, x, g))


def test_global_response_norm_begins_with_the_identity():
    x = an_input(4)
    assert torch.equal(normzoo.create("global_response_norm", CHANNELS).double()(x), x)


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_global_response_norm_without_positions_is_refused(channel_dim):
    layer = normzoo.create("global_response_norm", CHANNELS, channel_dim=channel_dim)
    with pytest.raises(normzoo.UserError, match=r"shape \(4, 8\), which has no positions"):
        layer(torch.randn(4, CHANNELS))


@pytest.mark.parametrize("dimensions", [3, 4, 5])
def test_divisive_norm_of_a_window_over_all_is_layer_norm(dimensions):
    divisive, layer = build("divisive_norm", window_size=5, sigma=0.1), build("layer_norm", eps=0.01)
    layer.load_state_dict(divisive.state_dict())
    x = an_input(dimensions)
    g = torch.randn_like(x)
    torch.testing.assert_close(outputs_and_gradients(divisive, x, g), outputs_and_gradients(layer, x, g))


def test_divisive_norm_of_a_window_of_one_is_positional_norm():
    divisive, positional = build("divisive_norm", window_size=1, sigma=0.1), build("positional_norm", eps=0.01)
    positional.load_state_dict(divisive.state_dict())
    torch.testing.assert_close(divisive(an := an_input(4)), positional(an))


def test_divisive_norm_without_positions_runs_over_channels():
    """Equations 6 and 7, written for the middle, where no end cuts a window off."""
    layer, x = normzoo.create("divisive_norm", 16, window_size=3, sigma=0.7), an_input(2, channels=16)
    v = x[:, 1:-1] - (x[:, :-2] + x[:, 1:-1] + x[:, 2:]) / 3
    y = v[:, 1:-1] / (0.49 + (v[:, :-2] ** 2 + v[:, 1:-1] ** 2 + v[:, 2:] ** 2) / 3).sqrt()
    torch.testing.assert_close(layer.double()(x)[:, 2:-2], y)


def test_divisive_norm_and_a_large_offset():
    layer, x = build("divisive_norm", torch.float32), an_input(4, torch.float32, side=8) + 1e6
    exact = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(layer(x).double(), exact, rtol=0, atol=4e-6)


@pytest.mark.parametrize(("channels", "shape"), [(1, (6, 1, 1, 1)), (1, (6, 1))])
def test_divisive_norm_of_a_single_value_is_refused(channels, shape):
    with pytest.raises(normzoo.UserError, match="larger window_size or map, or more channels"):
        normzoo.create("divisive_norm", channels)(torch.randn(shape))
    with pytest.raises(normzoo.UserError, match="a single value"):
        normzoo.create("divisive_norm", 8, window_size=1)(torch.randn(6, 8))


@pytest.mark.parametrize("size", [0, 2, -3])
def test_a_window_without_a_middle_is_refused(size):
    with pytest.raises(normzoo.UserError, match=rf"a position in its middle, 1, 3, 5, \.\.\.; got {size}"):
        normzoo.create("divisive_norm", 8, window_size=size)


@pytest.mark.parametrize(("norm", "function"), [("dynamic_tanh", torch.tanh), ("dynamic_erf", torch.erf)])
def test_pointwise_norms_begin_as_in_their_papers(norm, function):
    layer, x = normzoo.create(norm, CHANNELS).double(), an_input(4)
    torch.testing.assert_close(layer(x), function(x / 2))
    named = {key: tuple(parameter.shape) for key, parameter in layer.named_parameters()}
    shift = {"shift": (1,)} if norm == "dynamic_erf" else {}
    assert named == {"alpha": (1,), **shift, "weight": (CHANNELS,), "bias": (CHANNELS,)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradient_of_dynamic_erf_is_that_of_autograd(dtype):
    layer, x = build("dynamic_erf"), an_input(4, dtype)
    g = torch.randn_like(x)

    def by_autograd(x):
        u = layer.alpha * x + layer.shift
        return (torch.erf(u) * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)).to(x.dtype)

    by_autograd.parameters = layer.parameters
    torch.testing.assert_close(outputs_and_gradients(layer, x, g), outputs_and_gradients(by_autograd, x, g))


@pytest.mark.parametrize(
    ("norm", "keywords", "shape", "count"),
    [
        ("scale_norm", {}, (4, 8, 3, 5), 8),
        ("pixel_norm", {"channel_dim": -1}, (4, 3, 5, 8), 8),
        ("positional_norm", {}, (4, 8, 3, 5), 8),
        ("local_response_norm", {}, (4, 8, 3, 5), 5),
        ("local_response_norm", {"size": 9}, (4, 8, 3, 5), 8),
        ("global_response_norm", {}, (4, 8, 3, 5), 15),
        ("global_response_norm", {"channel_dim": -1}, (4, 3, 5, 8), 15),
        ("divisive_norm", {}, (4, 8, 3, 7), 120),
        ("divisive_norm", {"window_size": 3}, (4, 8, 5, 5), 72),
        ("divisive_norm", {"window_size": 3}, (4, 8), 3),
    ],
)
def test_values_per_statistic(norm, keywords, shape, count):
    assert normzoo.create(norm, 8, **keywords).values_per_statistic(torch.Size(shape)) == count
