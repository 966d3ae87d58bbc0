"""Norms made of others: at the ends of what they blend they are these; their running statistics are batch norm's."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import normzoo
from normzoo.surgery.recalibrate import recalibrate
from tests.norms.mixture_oracles import batch_channel_norm, batch_instance_norm
from tests.norms.norm_cases import CHANNELS, an_input, build

MIXTURES = ["batch_instance_norm", "ibn", "switchable_norm", "batch_channel_norm"]
TRACKING = ["batch_instance_norm", "switchable_norm"]


def as_twin(twin, layer, **keywords):
    """The norm called `twin` with the weight, the bias and what it shares of the running statistics of `layer`."""
    other = build(twin, **keywords)
    other.load_state_dict({key: value for key, value in layer.state_dict().items() if key in other.state_dict()})
    return other.train(layer.training)


@pytest.mark.parametrize(("gate", "twin"), [(1.0, "batch_norm"), (1.5, "batch_norm"), (0.0, "instance_norm")])
def test_a_gate_at_its_end_is_the_norm_there(gate, twin):
    layer = build("batch_instance_norm")
    nn.init.constant_(layer.gate, gate)
    for training in (True, False):
        layer.train(training)
        other, x = as_twin(twin, layer), an_input(4)
        torch.testing.assert_close(layer(x), other(x))


def test_gates_start_at_batch_norm():
    layer, x = normzoo.create("batch_instance_norm", CHANNELS), an_input(4, torch.float32)
    torch.testing.assert_close(layer(x), normzoo.create("batch_norm", CHANNELS)(x))


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_gates_between_the_bounds(training):
    layer, x = build("batch_instance_norm", channels=4).train(training), an_input(4, samples=3, side=2, channels=4)
    gate = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64, requires_grad=True)

    def output(x, gate, weight):
        return torch.func.functional_call(layer, {"gate": gate, "weight": weight}, (x,))

    inputs = (x.requires_grad_(), gate, layer.weight.detach().requires_grad_())
    assert gradcheck(output, inputs)
    assert gradgradcheck(output, inputs)


@pytest.mark.parametrize("training", [True, False])
def test_what_is_not_finite_reaches_no_other_channel(training):
    """As in batch norm; with running statistics no other sample either."""
    x = an_input(4)
    layer = build("batch_instance_norm").train(training)
    expected = copy.deepcopy(layer)(x)
    x[0, 0, 0, 0] = torch.inf
    y, others = layer(x), torch.ones_like(x, dtype=torch.bool)
    others[slice(None) if training else 0, 0] = False
    torch.testing.assert_close(y[others], expected[others])
    assert layer.running_mean[1:].isfinite().all()


def test_a_channel_that_is_far_off_costs_the_others_no_digits():
    x = an_input(4, torch.float32)
    x[:, 0] += 6.4e4
    layer, other = (normzoo.create(norm, CHANNELS) for norm in ("batch_instance_norm", "batch_norm"))
    for training in (True, False):
        y, exact = layer.train(training)(x), other.double().train(training)(x.double())
        torch.testing.assert_close(y[:, 1:].double(), exact[:, 1:], atol=2e-6, rtol=0)
        other.load_state_dict(layer.state_dict(), strict=False)


def test_gates_beyond_a_bound_are_led_back_only():
    """Where a gradient would lead farther out it is 0; where it leads back it is that at the bound."""
    x, g = an_input(4), torch.randn(6, CHANNELS, 3, 3, dtype=torch.float64)
    grads = {}
    for gate in (-0.1, 0.0, 1.0, 1.1):
        layer = normzoo.create("batch_instance_norm", CHANNELS).double()
        nn.init.constant_(layer.gate, gate)
        layer(x).backward(g)
        grads[gate] = layer.gate.grad
    torch.testing.assert_close(grads[1.1], grads[1.0].clamp(min=0))
    torch.testing.assert_close(grads[-0.1], grads[0.0].clamp(max=0))
    assert grads[1.1].any()
    assert not grads[1.1].all()


def test_gates_are_trained_from_one_bound_to_the_other_and_stop():
    """By any optimizer, towards what instance norm gives."""
    x = an_input(4) * torch.rand(6, CHANNELS, 1, 1, dtype=torch.float64)
    target = build("instance_norm", affine=False)(x)
    layer = normzoo.create("batch_instance_norm", CHANNELS, affine=False).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(layer(x), target, atol=0.05, rtol=0)
    assert layer.gate.max() < 0.1


def test_halves_of_ibn_are_torchs_layers():
    """Over three steps of training, then in evaluation: outputs, gradients and running statistics."""
    layer = build("ibn")
    instance, batch = nn.InstanceNorm2d(4, affine=True).double(), nn.BatchNorm2d(4).double()
    for key in ("weight", "bias"):
        for half, part in zip((instance, batch), getattr(layer, key).detach().chunk(2), strict=True):
            getattr(half, key).data.copy_(part)
    for training in (True, True, True, False):
        for each in (layer, instance, batch):
            each.train(training)
        x = an_input(4).requires_grad_()
        y, halves = layer(x), torch.cat([instance(x[:, :4]), batch(x[:, 4:])], dim=1)
        g = torch.randn_like(x)
        torch.testing.assert_close(y, halves)
        torch.testing.assert_close(*(torch.autograd.grad(out, x, g) for out in (y, halves)))
    torch.testing.assert_close(layer.running_mean, batch.running_mean)
    torch.testing.assert_close(layer.running_var, batch.running_var)


@pytest.mark.parametrize(("channels", "half"), [(1, 0), (2, 1), (5, 2)])
def test_ibn_of_odd_channels_has_the_smaller_half_by_instance(channels, half):
    layer, x = build("ibn", channels=channels), an_input(4, channels=channels)
    assert layer.running_mean.shape == layer.running_var.shape == (channels - half,)
    other = nn.BatchNorm2d(channels, momentum=1.0).double()
    other.load_state_dict({"weight": layer.weight, "bias": layer.bias}, strict=False)
    torch.testing.assert_close(layer(x)[:, half:], other(x)[:, half:])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("share", "twin"), [(0, "instance_norm"), (1, "layer_norm"), (2, "batch_norm")])
def test_switchable_norm_that_has_chosen_is_what_it_chose(share, twin, training):
    layer = build("switchable_norm")
    layer(an_input(4))
    for shares in (layer.mean_weight, layer.var_weight):
        shares.data.zero_()[share] = 100.0
    layer.train(training)
    x = an_input(4)
    torch.testing.assert_close(layer(x), as_twin(twin, layer)(x))


@pytest.mark.parametrize("training", [True, False])
def test_switchable_norm_without_positions_is_of_layer_and_batch(training):
    layer = build("SwitchNorm1d").train(training)
    x = an_input(2)
    torch.testing.assert_close(layer(x[:, :, None, None])[:, :, 0, 0], layer(x))
    for shares in (layer.mean_weight, layer.var_weight):
        shares.data.copy_(torch.tensor([100.0, 50.0, 0.0]))
    torch.testing.assert_close(layer(x), as_twin("layer_norm", layer)(x))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("norm", TRACKING)
def test_running_statistics_are_those_of_batch_norm(norm, momentum):
    layer, other = build(norm, momentum=momentum), build("batch_norm", momentum=momentum)
    for step in range(4):
        x = an_input(4) + step
        layer(x)
        other(x)
    for key in normzoo.info("batch_norm").state:
        torch.testing.assert_close(getattr(layer, key), getattr(other, key))


@pytest.mark.parametrize("norm", MIXTURES[:3])
def test_evaluation_without_running_statistics_takes_the_batchs(norm):
    layer, x = build(norm, track_running_stats=False), an_input(4)
    assert layer.running_mean is None
    torch.testing.assert_close(layer.eval()(x), layer.train()(x))


def test_estimates_move_towards_each_batch():
    """Algorithm 1 of the paper, step by step, on batches down to a single sample."""
    layer, r = build("batch_channel_norm", momentum=0.3), 0.3
    mu, sigma2 = np.zeros(CHANNELS), np.ones(CHANNELS)
    for samples in (6, 1, 3):
        x = an_input(4, samples=samples) + samples
        layer(x)
        values = x.numpy().swapaxes(0, 1).reshape(CHANNELS, -1)
        mu, sigma2 = (
            mu + r * (values.mean(1) - mu),
            sigma2 + r * (((values - mu[:, None]) ** 2).mean(1) - sigma2),
        )
        np.testing.assert_allclose(layer.running_mean.numpy(), mu, rtol=1e-12)
        np.testing.assert_allclose(layer.running_var.numpy(), sigma2, rtol=1e-12)
    assert layer.num_batches_tracked == 3


def test_estimates_are_constants_to_the_gradient_and_the_same_in_evaluation():
    layer, x = build("batch_channel_norm"), an_input(4).requires_grad_()
    g = torch.randn_like(x)
    y = layer(x)
    evaluated = copy.deepcopy(layer).eval()
    before = copy.deepcopy(evaluated.state_dict())
    torch.testing.assert_close(y, evaluated(x))
    torch.testing.assert_close(*(torch.autograd.grad(out, x, g) for out in (y, evaluated(x))))
    torch.testing.assert_close(evaluated.state_dict(), before)


def test_batch_channel_norm_with_exact_estimates_is_batch_norm_then_group_norm():
    layer, x = build("batch_channel_norm", num_groups=4), an_input(4)
    batch, group = build("batch_norm", momentum=1.0), nn.GroupNorm(4, CHANNELS).double()
    batch.load_state_dict({key: getattr(layer, key) for key in ("weight", "bias")}, strict=False)
    z = group(batch(x)).unflatten(1, (4, 2))
    y = (z * layer.group_weight.view(4, 1, 1, 1) + layer.group_bias.view(4, 1, 1, 1)).flatten(1, 2)
    layer.running_mean.copy_(x.mean((0, 2, 3)))
    layer.running_var.copy_(x.var((0, 2, 3), correction=0))
    torch.testing.assert_close(layer.eval()(x), y)


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("num_groups", [1, 2])
def test_estimates_that_lag_far_behind_cost_no_digits(num_groups, alike):
    """Where the weights are alike; where they differ the large mean is a part of the deviations."""
    layer = normzoo.create("batch_channel_norm", 4, num_groups=num_groups).eval()
    if not alike:
        layer.weight.data.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    x = torch.randn(2, 4, 7, 7, generator=torch.Generator().manual_seed(0)) + 1e6
    exact = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(layer(x).double(), exact, atol=2e-6, rtol=0)


@pytest.mark.parametrize("norm", MIXTURES)
def test_is_recalibrated(norm):
    """The running mean is then that of the batches given, whatever training had left."""
    model = nn.Sequential(build(norm))
    model(an_input(4) + 100)
    batches = [an_input(4) for _ in range(3)]
    recalibrate(model, batches)
    mean = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(model[0].running_mean, mean[CHANNELS // 2 :] if norm == "ibn" else mean)
    assert model[0].momentum == 0.1


@pytest.mark.parametrize("norm", [*MIXTURES, "decorrelated_batch_norm", "iter_norm"])
def test_saves_two_activations_at_most(norm):
    layer, x = build(norm, torch.float32), an_input(4, torch.float32, samples=64, side=16).requires_grad_()
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert sum(storages.values()) <= 2.05 * x.numel() * 4
    y.sum().backward()


@pytest.mark.parametrize("norm", MIXTURES)
def test_is_not_taken_for_torchs_batch_norm(norm):
    """`convert_sync_batchnorm` would replace it by one, silently."""
    model = nn.Sequential(build(norm))
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(model)[0]) is type(build(norm))


def test_values_per_statistic():
    counts = [build(norm).values_per_statistic((4, 8, 3, 5)) for norm in MIXTURES]
    assert counts == [15, 15, 15, 120]


def test_without_affine():
    x = an_input(4)
    ones, zeros = np.ones(CHANNELS), np.zeros(CHANNELS)
    layer = build("batch_instance_norm", affine=False)
    assert [key for key, _ in layer.named_parameters()] == ["gate"]
    y = batch_instance_norm(x.numpy(), ones, zeros, layer.gate.detach().numpy())
    np.testing.assert_allclose(layer(x).detach().numpy(), y, atol=1e-12)
    layer = build("batch_channel_norm", affine=False)
    assert list(layer.parameters()) == []
    np.testing.assert_allclose(layer(x).numpy(), batch_channel_norm(x.numpy(), ones, zeros), atol=1e-12)
