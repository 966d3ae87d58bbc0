"""Power norm over many batches: its algorithm step by step, exact while it warms up, approximate after."""

import copy

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

import normzoo
from tests.norms.norm_cases import CHANNELS, an_input, build
from tests.norms.transforms import assert_replicas, assert_same_compiled


class Simulation:
    """Algorithm 2 for one channel, after PN-V for the first steps, with the paper's α."""

    def __init__(self, weight, bias, eps, alpha, warmup):
        self.weight, self.bias, self.eps, self.alpha, self.warmup = weight, bias, eps, alpha, warmup
        self.psi2, self.nu, self.t = 1.0, 0.0, 0

    def forward(self, x):
        psi2_batch = np.mean(x**2)
        self.warm = self.t < self.warmup
        self.psi = np.sqrt((psi2_batch if self.warm else self.psi2) + self.eps)
        self.x_hat = x / self.psi
        self.psi2 += (1 - self.alpha) * (psi2_batch - self.psi2)
        self.t += 1
        return self.weight * self.x_hat + self.bias

    def backward(self, g):
        g_x_hat = self.weight * g
        lam, gamma = np.mean(g_x_hat * self.x_hat), np.mean(self.x_hat**2)
        g_x = (g_x_hat - (lam if self.warm else self.nu) * self.x_hat) / self.psi
        self.nu = self.nu * (1 - (1 - self.alpha) * gamma) + (1 - self.alpha) * lam
        return g_x, np.sum(g * self.x_hat), np.sum(g)


def flat(x, c):
    return x[:, c].detach().numpy().ravel()


@pytest.mark.parametrize("warmup", [0, 2])
def test_algorithm_step_by_step(warmup):
    layer = build("power_norm", momentum=0.3, warmup_steps=warmup)
    twins = [Simulation(layer.weight[c].item(), layer.bias[c].item(), layer.eps, 0.7, warmup) for c in range(CHANNELS)]
    for step in range(6):
        x = (an_input(4, samples=4 + step) * (1 + step)).requires_grad_()
        y, g = layer(x), torch.randn_like(x) + 0.3
        gradients = torch.autograd.grad(y, [x, layer.weight, layer.bias], g)
        for c, twin in enumerate(twins):
            np.testing.assert_allclose(flat(y, c), twin.forward(flat(x, c)), rtol=1e-10, atol=1e-12)
            g_x, g_weight, g_bias = twin.backward(flat(g, c))
            np.testing.assert_allclose(flat(gradients[0], c), g_x, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose([gradients[1][c], gradients[2][c]], [g_weight, g_bias], rtol=1e-9)
            state = [layer.running_power[c], layer.running_product[c]]
            np.testing.assert_allclose(state, [twin.psi2, twin.nu], rtol=1e-10)


def test_gradient_is_exact_while_warming_up():
    layer, x = build("power_norm", channels=2), an_input(4, samples=3, side=2, channels=2).requires_grad_()

    def output(x):
        return functional_call(layer, {key: value.clone() for key, value in layer.named_buffers()}, (x,))

    assert gradcheck(output, x)


def test_is_batch_norm_of_centred_values_while_warming_up():
    x = an_input(4)
    x = x - x.mean((0, 2, 3), keepdim=True)
    layer, other = build("power_norm"), build("batch_norm")
    other.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer(x), other(x))


def test_training_is_evaluation_by_the_batches_before():
    layer = build("power_norm", warmup_steps=1)
    layer(an_input(4))
    x = an_input(4)
    expected = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[:1] * 0 + 5)[0, :, 0, 0], layer.bias + layer.weight * 5 / quadratic_mean(layer))


def quadratic_mean(layer):
    """ψ before the last batch, of fives, moved it."""
    return ((layer.running_power - 0.1 * 25) / 0.9 + layer.eps).sqrt()


def test_tokens_are_images_with_the_channels_moved():
    images, tokens = build("power_norm", warmup_steps=1), build("power_norm", warmup_steps=1, channel_dim=-1)
    tokens.load_state_dict(images.state_dict())
    for _ in range(3):
        one = an_input(3).requires_grad_()
        other = one.detach().movedim(1, -1).contiguous().requires_grad_()
        y, z = images(one), tokens(other)
        torch.testing.assert_close(z, y.movedim(1, -1))
        y.pow(3).sum().backward()
        z.pow(3).sum().backward()
        torch.testing.assert_close(other.grad, one.grad.movedim(1, -1))
    torch.testing.assert_close(tokens.state_dict(), images.state_dict())
    assert images.values_per_statistic((4, 8, 5)) == tokens.values_per_statistic((4, 5, 8)) == 20


def test_goes_on_after_loading():
    one, other = build("power_norm", warmup_steps=1), build("power_norm", warmup_steps=1)
    for _ in range(2):
        one(an_input(4).requires_grad_()).sum().backward()
    other.load_state_dict(one.state_dict())
    x, results = an_input(4), []
    for layer in (one, other):
        leaf = x.clone().requires_grad_()
        layer(leaf).square().sum().backward()
        results.append([leaf.grad, *layer.buffers()])
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_one_layer_at_two_places():
    layer, x = build("power_norm", warmup_steps=1), an_input(4).requires_grad_()
    layer(layer(x)).square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("warmup", [0, 2])
def test_compiled(warmup):
    assert_same_compiled(build("power_norm", torch.float32, warmup_steps=warmup))


def test_replicas_under_vmap():
    assert_replicas([build("power_norm", warmup_steps=2) for _ in range(3)])


@pytest.mark.parametrize("keywords", [{"momentum": 0.0}, {"momentum": 1.1}, {"warmup_steps": -1}])
def test_numbers_that_cannot_be(keywords):
    with pytest.raises(
        ValueError, match="PowerNorm: momentum is above 0 and at most 1, and warmup_steps 0 or more; got"
    ):
        normzoo.create("power_norm", CHANNELS, **keywords)
