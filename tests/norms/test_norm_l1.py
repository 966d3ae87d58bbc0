"""L1 batch norm: its factor, its gradient, its running statistics, its memory."""

import numpy as np
import pytest
import torch
from torch import nn

import normzoo
from normzoo.surgery.recalibrate import recalibrate
from tests.norms.norm_cases import CHANNELS, an_input, build


def test_deviation_of_normal_values_is_their_standard_deviation():
    """For which Hoffer et al. have the factor: then it gives what batch norm does."""
    x = torch.randn(200_000, 2, dtype=torch.float64) * torch.tensor([0.1, 7.0]) + 3
    torch.testing.assert_close(
        build("l1_batch_norm", channels=2, affine=False)(x).std(0), torch.ones(2).double(), rtol=5e-3, atol=0
    )


@pytest.mark.parametrize("dimensions", [2, 4])
def test_gradient(dimensions):
    """∂l/∂c = g / s − k / n · sign(c) Σ g c / s², centred, with c = x − mean and s = k / n · Σ |c| + eps."""
    layer, x = build("l1_batch_norm"), an_input(dimensions).requires_grad_()
    g = torch.randn_like(x)
    grad_x, grad_weight, grad_bias = torch.autograd.grad(layer(x), [x, layer.weight, layer.bias], g)
    for i in range(CHANNELS):
        xs, gs = x[:, i].detach().numpy().ravel(), g[:, i].numpy().ravel()
        k, c = np.sqrt(np.pi / 2), xs - xs.mean()
        s = k * np.abs(c).mean() + layer.eps
        g_c = layer.weight[i].item() * (gs / s - k / len(c) * np.sign(c) * np.sum(gs * c) / s**2)
        np.testing.assert_allclose(grad_x[:, i].numpy().ravel(), g_c - g_c.mean(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose([grad_weight[i], grad_bias[i]], [np.sum(gs * c / s), gs.sum()], rtol=1e-9)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics(momentum):
    layer = build("l1_batch_norm", momentum=momentum)
    mean, std = np.zeros(CHANNELS), np.ones(CHANNELS)
    for step in range(5):
        x = an_input(4) + step
        layer(x)
        w = momentum or 1 / (step + 1)
        values = np.moveaxis(x.numpy(), 1, 0).reshape(CHANNELS, -1)
        new = values.mean(1)
        mean = (1 - w) * mean + w * new
        std = (1 - w) * std + w * np.sqrt(np.pi / 2) * np.abs(values - new[:, None]).mean(1)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_std.numpy(), std, rtol=1e-12)
    x = an_input(4)
    expected = (x.numpy() - mean[:, None, None]) / (std[:, None, None] + layer.eps)
    expected = layer.weight.detach().numpy()[:, None, None] * expected + layer.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(layer.eval()(x).detach().numpy(), expected, rtol=1e-10)


def test_evaluation_without_running_statistics_takes_the_batch():
    layer, x = build("l1_batch_norm", track_running_stats=False), an_input(4)
    assert list(layer.state_dict()) == ["weight", "bias"]
    torch.testing.assert_close(layer.eval()(x), layer.train()(x))


def test_is_recalibrated():
    layer, batches = build("l1_batch_norm"), [an_input(4) + step for step in range(4)]
    recalibrate(nn.Sequential(layer), batches)
    torch.testing.assert_close(layer.running_mean, torch.stack(batches).mean((0, 1, 3, 4)))
    assert layer.momentum == 0.1


def test_large_values_in_half_precision():
    """Whose squares float16 cannot hold."""
    x = an_input(4, torch.float32) * 1000
    layer = normzoo.create("l1_batch_norm", CHANNELS)
    y = layer(x.half())
    torch.testing.assert_close(y.float(), layer(x), rtol=2e-3, atol=4e-3)


def test_saves_one_activation():
    layer, x = build("l1_batch_norm", torch.float32), an_input(4, torch.float32, samples=16).requires_grad_()
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert sum(storages.values()) <= 1.1 * x.numel() * 4
    y.sum().backward()


@pytest.mark.parametrize("norm", ["l1_batch_norm", "mean_only_batch_norm"])
@pytest.mark.parametrize("shape", [(1, 8), (1, 8, 1, 1)])
def test_a_statistic_over_one_value(norm, shape):
    layer = build(norm)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match="a single value for each mean and variance"):
        layer(torch.randn(shape, dtype=torch.float64))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert layer.eval()(torch.randn(shape, dtype=torch.float64)).isfinite().all()
