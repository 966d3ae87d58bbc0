"""Online norm: its two processes sample by sample, whatever the batches that the samples come in."""

import copy

import numpy as np
import pytest
import torch

import normzoo
from normzoo.norms.online_norm import recurrence
from tests.norms.norm_cases import CHANNELS, an_input, build
from tests.norms.transforms import assert_replicas, assert_same_compiled


class Simulation:
    """Forward and backward of the paper for one channel, a loop over samples, with its decay factors."""

    def __init__(self, alpha_f, alpha_b, eps):
        self.alpha_f, self.alpha_b, self.eps = alpha_f, alpha_b, eps
        self.mu, self.sigma2, self.error_y, self.error_1 = 0.0, 1.0, 0.0, 0.0

    def forward(self, x):
        self.y, self.sigma = np.empty_like(x), np.empty(len(x))
        for t, sample in enumerate(x):
            self.sigma[t] = np.sqrt(self.sigma2 + self.eps)
            self.y[t] = (sample - self.mu) / self.sigma[t]
            a = self.alpha_f
            self.sigma2 = a * self.sigma2 + (1 - a) * sample.var() + a * (1 - a) * (sample.mean() - self.mu) ** 2
            self.mu = a * self.mu + (1 - a) * sample.mean()
        return self.y

    def backward(self, g):
        g_x = np.empty_like(g)
        for t, (grad, y) in enumerate(zip(g, self.y, strict=True)):
            grad = grad - (1 - self.alpha_b) * self.error_y * y
            self.error_y += np.mean(grad * y)
            g_x[t] = grad / self.sigma[t] - (1 - self.alpha_b) * self.error_1
            self.error_1 += np.mean(g_x[t])
        return g_x


@pytest.mark.parametrize("dimensions", [2, 4])
def test_both_processes_step_by_step(dimensions):
    layer = build("online_norm", momentum=0.05, backward_momentum=0.2, affine=False, layer_scaling=False)
    twins = [Simulation(0.95, 0.8, layer.eps) for _ in range(CHANNELS)]
    for samples in (6, 1, 5, 8):
        x = an_input(dimensions, samples=samples).requires_grad_()
        g = torch.randn_like(x) + 0.3
        y = layer(x)
        (grad,) = torch.autograd.grad(y, x, g)
        for c, twin in enumerate(twins):
            np.testing.assert_allclose(y[:, c].detach().numpy(), twin.forward(x[:, c].detach().numpy()), rtol=1e-10)
            np.testing.assert_allclose(grad[:, c].numpy(), twin.backward(g[:, c].numpy()), rtol=1e-9, atol=1e-12)
            state = [buffer[c].item() for buffer in layer.buffers()]
            np.testing.assert_allclose(state, [twin.mu, twin.sigma2, twin.error_y, twin.error_1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (4, 2), (5, 1)])
def test_batches_are_where_samples_happen_to_be_cut(sizes):
    """In outputs, gradients and state: one batch, or the same samples in several."""
    whole, x = build("online_norm"), an_input(4)
    cut, g = copy.deepcopy(whole), torch.randn_like(x)
    outputs, gradients = [], []
    for part, weighting in zip(x.split(sizes), g.split(sizes), strict=True):
        leaf = part.clone().requires_grad_()
        outputs.append(cut(leaf))
        outputs[-1].backward(weighting)
        gradients.append(leaf.grad)
    leaf = x.clone().requires_grad_()
    y = whole(leaf)
    y.backward(g)
    torch.testing.assert_close(torch.cat(outputs), y)
    torch.testing.assert_close(torch.cat(gradients), leaf.grad)
    torch.testing.assert_close(cut.state_dict(), whole.state_dict())
    torch.testing.assert_close([p.grad for p in cut.parameters()], [p.grad for p in whole.parameters()])


def test_a_stream_is_normalized_in_time():
    layer = build("online_norm", momentum=0.02, affine=False, layer_scaling=False)
    late = [layer(an_input(4, samples=1) * 3 + 7) for _ in range(600)][300:]
    values = torch.cat(late).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(CHANNELS).double(), rtol=0, atol=0.1)
    torch.testing.assert_close(values.std(1), torch.ones(CHANNELS).double(), rtol=0.1, atol=0)


def test_gradients_lose_their_mean_and_their_part_along_y_in_time():
    """As the gradient of batch norm has, within a batch, neither."""
    layer = build("online_norm", momentum=0.01, backward_momentum=0.05, affine=False, layer_scaling=False)
    means, products = [], []
    for _ in range(200):
        x = an_input(4, samples=4).requires_grad_()
        y = layer(x)
        (grad,) = torch.autograd.grad(y, x, 1 + 2 * y.detach() + torch.randn_like(y))
        means.append(grad.mean((0, 2, 3)))
        products.append((grad * y).mean((0, 2, 3)).detach())
    for each in (means, products):
        assert torch.stack(each[100:]).mean(0).abs().max() < 0.02


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 8, 9])
def test_recurrence(length):
    a, b, s = torch.rand(length, 3).double(), torch.randn(length, 3).double(), torch.randn(3).double()
    expected = [s]
    for t in range(length):
        expected.append(a[t] * expected[-1] + b[t])
    torch.testing.assert_close(recurrence(a, b, s), torch.stack(expected))


def test_layer_scaling_bounds_a_sample():
    """Its root mean square is 1, however far the statistics lag behind."""
    y = build("online_norm", affine=False)(1000 * an_input(4) + 500)
    torch.testing.assert_close(y.square().mean((1, 2, 3)), torch.ones(6).double())


def test_evaluation_takes_the_running_statistics():
    layer, x = build("online_norm", momentum=0.1, layer_scaling=False), an_input(4)
    layer(an_input(4) + 2)
    mean, var = (buffer.view(-1, 1, 1) for buffer in (layer.running_mean, layer.running_var))
    weight, bias = (parameter.view(-1, 1, 1) for parameter in layer.parameters())
    torch.testing.assert_close(layer.eval()(x), (x - mean) / (var + layer.eps).sqrt() * weight + bias)


def test_goes_on_after_loading():
    one, other = build("online_norm"), build("online_norm")
    one(an_input(4)).sum().backward()
    other.load_state_dict(one.state_dict())
    x, results = an_input(4), []
    for layer in (one, other):
        leaf = x.clone().requires_grad_()
        layer(leaf).square().sum().backward()
        results.append([leaf.grad, *layer.buffers()])
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_one_layer_at_two_places():
    """A backward finds the control as the one before it left it, and does not mind that it has moved."""
    layer, x = build("online_norm"), an_input(4).requires_grad_()
    layer(layer(x)).square().sum().backward()
    assert x.grad.isfinite().all()


def test_compiled():
    assert_same_compiled(build("online_norm", torch.float32, momentum=0.1, backward_momentum=0.1))


def test_replicas_under_vmap():
    assert_replicas([build("online_norm", momentum=0.1, backward_momentum=0.1) for _ in range(3)])


@pytest.mark.parametrize(
    "keywords", [{"momentum": 0.0}, {"momentum": 1.0}, {"momentum": 1.5}, {"backward_momentum": 1.5}]
)
def test_momenta_that_cannot_be(keywords):
    with pytest.raises(ValueError, match=r"between 0 and 1, such as 0\.001; got momentum="):
        normzoo.create("online_norm", CHANNELS, **keywords)
