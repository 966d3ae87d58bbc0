"""Mean-only batch norm: a mean taken off, in value and gradient."""

import numpy as np
import pytest
import torch
from torch import nn

import normzoo
from normzoo.surgery.recalibrate import recalibrate
from tests.norms.norm_cases import CHANNELS, an_input, build


@pytest.mark.parametrize("dimensions", [2, 4])
def test_gradient_is_centred(dimensions):
    layer, x = build("mean_only_batch_norm"), an_input(dimensions).requires_grad_()
    g, dims = torch.randn_like(x), (0, *range(2, dimensions))
    grad_x, grad_bias = torch.autograd.grad(layer(x), [x, layer.bias], g)
    torch.testing.assert_close(grad_x, g - g.mean(dims, keepdim=True))
    torch.testing.assert_close(grad_bias, g.sum(dims))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_mean(momentum):
    layer, mean = build("mean_only_batch_norm", momentum=momentum), np.zeros(CHANNELS)
    for step in range(5):
        x = an_input(4) + step
        layer(x)
        w = momentum or 1 / (step + 1)
        mean = (1 - w) * mean + w * x.numpy().mean((0, 2, 3))
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
    x = an_input(4)
    expected = x.numpy() - mean[:, None, None] + layer.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(layer.eval()(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_scale_is_left_alone():
    x = an_input(4)
    layer = normzoo.create("mean_only_batch_norm", CHANNELS).double()
    torch.testing.assert_close(layer(3 * x + 7), 3 * layer(x))


def test_is_batch_norm_of_unit_variance():
    """Its output on values that batch norm has already scaled."""
    x = an_input(4) + 5
    scaled = x / x.std((0, 2, 3), correction=0, keepdim=True)
    layer, other = (build(norm, affine=False) for norm in ("mean_only_batch_norm", "batch_norm"))
    torch.testing.assert_close(layer(scaled), other(x), rtol=1e-4, atol=1e-5)


def test_is_recalibrated():
    layer, batches = build("mean_only_batch_norm"), [an_input(4) + step for step in range(4)]
    recalibrate(nn.Sequential(layer), batches)
    torch.testing.assert_close(layer.running_mean, torch.stack(batches).mean((0, 1, 3, 4)))


def test_evaluation_without_a_running_mean_takes_the_batch():
    layer, x = build("mean_only_batch_norm", track_running_stats=False), an_input(4)
    assert list(layer.state_dict()) == ["bias"]
    torch.testing.assert_close(layer.eval()(x), layer.train()(x))


def test_follows_a_weight_normalized_layer():
    """As in section 4 of its paper: the conv without a bias, its scale learnt by weight norm."""
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, CHANNELS, 3, bias=False).double())
    layer = build("mean_only_batch_norm")
    y = layer(conv(torch.randn(4, 3, 5, 5, dtype=torch.float64)))
    torch.testing.assert_close(y.mean((0, 2, 3)), layer.bias)
