"""Moving average batch norm over many batches: forward and backward step by step, and the batch alone at its limits."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

import normzoo
from tests.norms.norm_cases import CHANNELS, an_input, build
from tests.norms.transforms import assert_replicas, assert_same_compiled


class Simulation:
    """The layer for one channel, with lists of what the last batches gave."""

    def __init__(self, layer, c):
        self.weight, self.bias = layer.weight[c].item(), layer.bias[c].item()
        self.m, self.eps, self.warmup, self.limit = layer.window, layer.eps, layer.warmup_steps, layer.r_max
        self.alpha, self.running, self.moments, self.products = 1 - layer.momentum, 1.0, [], []

    def average(self, values):
        return values[-1] if self.alone else np.mean(values[-self.m :])

    def forward(self, x):
        self.alone = len(self.moments) < self.warmup
        self.moments.append(np.mean(x**2))
        chi2 = self.average(self.moments)
        self.chi = np.sqrt(chi2 + self.eps)
        r = self.chi / np.sqrt(self.running + self.eps)
        self.r = 1.0 if self.alone else np.clip(r, 1 / self.limit, self.limit)
        self.running = self.alpha * self.running + (1 - self.alpha) * chi2
        self.z = x / self.chi
        return self.weight * self.r * self.z + self.bias

    def backward(self, g):
        g_z = g * self.weight * self.r
        self.products.append(np.mean(g_z * self.z))
        g_x = (g_z - self.z * self.average(self.products)) / self.chi
        return g_x, np.sum(g * self.r * self.z), np.sum(g)


def flat(x, c):
    return x[:, c].detach().numpy().ravel()


@pytest.mark.parametrize(("window", "warmup"), [(3, 0), (3, 2), (2, 5), (1, 0)])
def test_step_by_step(window, warmup):
    layer = build("moving_average_batch_norm", window=window, momentum=0.3, r_max=1.3, warmup_steps=warmup)
    twins = [Simulation(layer, c) for c in range(CHANNELS)]
    limited = set()
    for step in range(8):
        x = (an_input(4, samples=3 + step) * (1 + step % 3)).requires_grad_()
        y, g = layer(x), torch.randn_like(x) + 0.3
        gradients = torch.autograd.grad(y, [x, layer.weight, layer.bias], g)
        for c, twin in enumerate(twins):
            np.testing.assert_allclose(flat(y, c), twin.forward(flat(x, c)), rtol=1e-10, atol=1e-12)
            limited.add(abs(np.log(twin.r)) > np.log(1.3) - 1e-9)
            g_x, g_weight, g_bias = twin.backward(flat(g, c))
            np.testing.assert_allclose(flat(gradients[0], c), g_x, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose([gradients[1][c], gradients[2][c]], [g_weight, g_bias], rtol=1e-9)
            np.testing.assert_allclose(layer.running_moment[c], twin.running, rtol=1e-10)
    assert limited == {True, False}, "both sides of the limit of r are met"
    x = an_input(4)
    for c, twin in enumerate(twins):
        expected = twin.weight * flat(x, c) / np.sqrt(twin.running + twin.eps) + twin.bias
        np.testing.assert_allclose(flat(layer.eval()(x), c), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("keywords", [{}, {"window": 1, "r_max": 1.0, "warmup_steps": 0}], ids=["warming up", "alone"])
def test_gradient_is_exact_for_a_batch_alone(keywords):
    layer = build("moving_average_batch_norm", channels=2, **keywords)
    x = an_input(4, samples=3, side=2, channels=2).requires_grad_()

    def output(x):
        return functional_call(layer, {key: value.clone() for key, value in layer.named_buffers()}, (x,))

    assert gradcheck(output, x)


def test_is_batch_norm_of_centred_values_for_a_batch_alone():
    """In output; and in gradient but for its mean, which centralized weights let nothing of through."""
    x = an_input(4)
    x = (x - x.mean((0, 2, 3), keepdim=True)).requires_grad_()
    layer = build("moving_average_batch_norm", window=1, r_max=1.0, warmup_steps=0)
    other, g = build("batch_norm"), torch.randn_like(x)
    other.load_state_dict(layer.state_dict(), strict=False)
    y, expected = layer(x), other(x)
    torch.testing.assert_close(y, expected)
    (grad,), (expected_grad,) = torch.autograd.grad(y, x, g), torch.autograd.grad(expected, x, g)
    torch.testing.assert_close(grad - grad.mean((0, 2, 3), keepdim=True), expected_grad)


def test_a_window_of_batches_stands_for_one_large_batch():
    """In the last of four batches of two: the root mean square of all eight samples."""
    layer = build("moving_average_batch_norm", window=4, r_max=1.0, warmup_steps=0)
    x = an_input(4, samples=8)
    last = [layer(part) for part in x.split(2)][-1]
    chi = (x.square().mean((0, 2, 3), keepdim=True) + layer.eps).sqrt()
    weight, bias = (parameter.view(-1, 1, 1) for parameter in (layer.weight, layer.bias))
    torch.testing.assert_close(last, x[-2:] / chi * weight + bias)


def test_goes_on_after_loading():
    one, other = (build("moving_average_batch_norm", window=3, warmup_steps=1) for _ in range(2))
    for _ in range(4):
        one(an_input(4).requires_grad_()).sum().backward()
    other.load_state_dict(one.state_dict())
    x, results = an_input(4), []
    for layer in (one, other):
        leaf = x.clone().requires_grad_()
        layer(leaf).square().sum().backward()
        results.append([leaf.grad, *layer.buffers()])
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_one_layer_at_two_places():
    layer, x = build("moving_average_batch_norm", warmup_steps=1), an_input(4).requires_grad_()
    layer(layer(x)).square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("warmup", [0, 2])
def test_compiled(warmup):
    assert_same_compiled(build("moving_average_batch_norm", torch.float32, window=2, warmup_steps=warmup))


def test_replicas_under_vmap():
    assert_replicas([build("moving_average_batch_norm", window=2, warmup_steps=2) for _ in range(3)])


@pytest.mark.parametrize(
    "keywords", [{"window": 0}, {"momentum": 0.0}, {"momentum": 1.1}, {"r_max": 0.9}, {"warmup_steps": -1}]
)
def test_numbers_that_cannot_be(keywords):
    with pytest.raises(ValueError, match="window is 1 or more, momentum above 0 and at most 1, r_max 1 or more"):
        normzoo.create("moving_average_batch_norm", CHANNELS, **keywords)


def test_an_input_narrower_than_the_state():
    layer = build("moving_average_batch_norm", torch.float64)
    assert layer(an_input(4).float()).dtype == torch.float32
