"""Cross-iteration batch norm: the paper's Taylor terms over several steps, and where the layer finds its weights."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import normzoo
from normzoo.norms.cross_iteration_batch_norm import find_weight
from tests.norms.norm_cases import CHANNELS, an_input, build

INPUTS = 5


class Simulation:
    """The paper's formulas for x = u θᵀ, of whose mean and mean of squares the derivatives are written out."""

    def __init__(self, weight, bias, eps, window):
        self.weight, self.bias, self.eps, self.window, self.past = weight, bias, eps, window, []

    def statistics(self, u, theta):
        x = u @ theta.T
        return x, x.mean(0), (x**2).mean(0)

    def forward(self, u, theta):
        x, mu, nu = self.statistics(u, theta)
        mus, nus = [mu], [np.maximum(nu, mu**2)]
        self.bent = 0
        for mu_t, nu_t, d_mu, d_nu, theta_t in self.past[: self.window - 1]:
            mu_now = mu_t + np.sum(d_mu * (theta - theta_t), axis=1)
            nu_now = nu_t + np.sum(d_nu * (theta - theta_t), axis=1)
            self.bent += np.sum(nu_now < mu_now**2)
            mus.append(mu_now)
            nus.append(np.maximum(nu_now, mu_now**2))
        mean = np.mean(mus, axis=0)
        var = np.mean(nus, axis=0) - mean**2
        return (x - mean) / np.sqrt(var + self.eps) * self.weight + self.bias

    def remember(self, u, theta):
        x, mu, nu = self.statistics(u, theta)
        d_mu = np.tile(u.mean(0), (len(theta), 1))
        d_nu = 2 * x.T @ u / len(u)
        self.past.insert(0, (mu, nu, d_mu, d_nu, theta.copy()))


def a_step(size):
    return size * torch.randn(CHANNELS, INPUTS, dtype=torch.float64)


@pytest.mark.parametrize("size", [0.05, 1.0], ids=["small steps", "steps too large for a first-order term"])
@pytest.mark.parametrize("window", [2, 4])
def test_formulas_step_by_step(window, size):
    layer = build("cross_iteration_batch_norm", window=window)
    theta = a_step(1.0).requires_grad_()
    twin = Simulation(layer.weight.detach().numpy(), layer.bias.detach().numpy(), layer.eps, window)
    bent = 0
    for _ in range(6):
        u = torch.randn(4, INPUTS, dtype=torch.float64)
        x = u @ theta.T
        y, g = layer(x, theta), torch.randn_like(x)
        at = theta.detach().numpy()
        np.testing.assert_allclose(y.detach().numpy(), twin.forward(u.numpy(), at), rtol=1e-8, atol=1e-10)
        bent += twin.bent

        # Finite differences of the paper's formulas, past statistics being functions of the present weights.
        (grad,) = torch.autograd.grad(y, theta, g)
        direction, h = np.random.randn(*at.shape), 1e-6
        ahead, behind = (np.sum(g.numpy() * twin.forward(u.numpy(), at + s * direction)) for s in (h, -h))
        np.testing.assert_allclose(np.sum(grad.numpy() * direction), (ahead - behind) / (2 * h), rtol=1e-5)

        twin.remember(u.numpy(), at)
        with torch.no_grad():
            theta += a_step(size)
    assert bool(bent) is (size == 1.0), "the larger of ν and μ² is sometimes μ²"


@pytest.mark.parametrize("dimensions", [3, 4])
def test_with_weights_at_rest_it_is_batch_norm_of_all_batches(dimensions):
    conv = {3: nn.Conv1d, 4: nn.Conv2d}[dimensions](3, CHANNELS, 3).double()
    layer, other = build("cross_iteration_batch_norm", window=3), build("batch_norm")
    other.load_state_dict(layer.state_dict())
    batches = [torch.randn(2, 3, *[5] * (dimensions - 2), dtype=torch.float64) + step for step in range(5)]
    for step, batch in enumerate(batches):
        y = layer(conv(batch))
        together = torch.cat(batches[max(0, step - 2) : step + 1])
        torch.testing.assert_close(y, other(conv(together))[-2:])


def test_the_gradient_is_orthogonal_to_the_weights():
    """As that of batch norm, whose output does not change with their scale, and to which past batches belong."""
    linear = nn.Linear(INPUTS, CHANNELS, bias=False).double()
    layer = build("cross_iteration_batch_norm", eps=1e-14)
    for _ in range(3):
        y = layer(linear(torch.randn(4, INPUTS, dtype=torch.float64)))
        (grad,) = torch.autograd.grad(y, linear.weight, torch.randn_like(y))
        product = (grad * linear.weight).sum(1)
        torch.testing.assert_close(product, torch.zeros_like(product), rtol=0, atol=1e-9)


LAYERS = {
    "conv1d": (nn.Conv1d(4, CHANNELS, 3), (2, 4, 5)),
    "conv2d": (nn.Conv2d(4, CHANNELS, 3), (2, 4, 5, 5)),
    "no bias": (nn.Conv2d(4, CHANNELS, 3, bias=False), (2, 4, 5, 5)),
    "grouped": (nn.Conv2d(4, CHANNELS, 3, groups=4), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS), (2, CHANNELS, 5, 5)),
    "conv3d": (nn.Conv3d(4, CHANNELS, 2), (2, 4, 3, 3, 3)),
    "linear": (nn.Linear(4, CHANNELS), (6, 4)),
    "linear without bias": (nn.Linear(4, CHANNELS, bias=False), (6, 4)),
}


@pytest.mark.parametrize("deeper", [False, True], ids=["first layer", "deeper"])
@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU])
@pytest.mark.parametrize("kind", LAYERS)
def test_finds_the_weight_before_it(kind, activation, deeper):
    before, shape = LAYERS[kind]
    x = torch.randn(shape, requires_grad=deeper)
    x = x * 2 if deeper else x
    assert find_weight(activation()(before(x)), CHANNELS) is before.weight


def test_finds_the_weight_under_autocast():
    conv = nn.Conv2d(4, CHANNELS, 3)
    with torch.autocast("cpu", torch.bfloat16):
        x = conv(torch.randn(2, 4, 5, 5))
        assert find_weight(x, CHANNELS) is conv.weight
        layer = normzoo.create("cross_iteration_batch_norm", CHANNELS)
        for _ in range(2):
            y = layer(conv(torch.randn(2, 4, 5, 5)))
    y.sum().backward()
    assert conv.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "before",
    [
        nn.ConvTranspose2d(CHANNELS, CHANNELS, 3),  # whose weight has the input channels first
        nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3), nn.GroupNorm(2, CHANNELS)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, CHANNELS, 3)),
    ],
    ids=["transposed", "pooled", "normalized", "parametrized"],
)
def test_without_a_weight_it_warns_once_and_is_batch_norm(before):
    layer, other = build("cross_iteration_batch_norm"), build("batch_norm")
    other.load_state_dict(layer.state_dict())
    before = copy.deepcopy(before).double()
    x = torch.randn(2, CHANNELS, 8, 8, dtype=torch.float64)
    with pytest.warns(UserWarning, match="finds no weight before it that it could follow"):
        layer(before(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer(before(x + 1))
    other(before(x))
    torch.testing.assert_close(y, other(before(x + 1)))


@pytest.mark.parametrize("how", ["no gradient", "leaf", "window of one"])
def test_is_batch_norm_without_a_word(how):
    layer = build("cross_iteration_batch_norm", window=1 if how == "window of one" else 8)
    other = build("batch_norm")
    other.load_state_dict(layer.state_dict())
    conv = nn.Identity() if how == "leaf" else nn.Conv2d(CHANNELS, CHANNELS, 3).double()
    with torch.set_grad_enabled(how != "no gradient"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            x = conv(an_input(4).requires_grad_(how == "leaf"))
            torch.testing.assert_close(layer(x), other(x))
    torch.testing.assert_close(layer.state_dict(), other.state_dict())


def test_a_parametrized_weight_can_be_given():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, CHANNELS, 3)).double()
    layer, other = build("cross_iteration_batch_norm", window=2), build("batch_norm")
    other.load_state_dict(layer.state_dict())
    batches = torch.randn(2, 2, 3, 5, 5, dtype=torch.float64)
    for batch in batches:
        theta = conv.weight
        y = layer(nn.functional.conv2d(batch, theta, conv.bias), theta)
    torch.testing.assert_close(y, other(conv(batches.flatten(0, 1)))[-2:])


def test_burn_in():
    layer = build("cross_iteration_batch_norm", burn_in=3)
    other, conv = build("batch_norm"), nn.Conv2d(3, CHANNELS, 3).double()
    other.load_state_dict(layer.state_dict())
    same = []
    for _ in range(5):
        x = conv(torch.randn(2, 3, 5, 5, dtype=torch.float64))
        same.append(torch.allclose(layer(x), other(x)))
    assert same == [True, True, True, True, False], "the fourth batch is the first one kept"


def test_the_window_is_not_saved_and_starts_anew_for_other_weights():
    layer, conv = build("cross_iteration_batch_norm"), nn.Conv2d(3, CHANNELS, 3).double()
    for _ in range(3):
        layer(conv(torch.randn(2, 3, 5, 5, dtype=torch.float64)))
    assert list(layer.state_dict()) == list(build("batch_norm").state_dict())
    other, twin = build("cross_iteration_batch_norm"), copy.deepcopy(layer)
    other.load_state_dict(layer.state_dict())
    x = conv(torch.randn(2, 3, 5, 5, dtype=torch.float64))
    expected = layer(x)
    torch.testing.assert_close(twin(x), expected)
    assert not torch.allclose(other(x), expected)
    wider = nn.Conv2d(7, CHANNELS, 3).double()
    x = wider(torch.randn(2, 7, 5, 5, dtype=torch.float64))
    plain = build("batch_norm")
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(x))
    layer.float()(wider.float()(torch.randn(2, 7, 5, 5))).sum().backward()


def test_keeps_no_graph():
    """Of past batches numbers are kept, and no way back to their activations."""
    layer, conv = build("cross_iteration_batch_norm", window=3), nn.Conv2d(3, CHANNELS, 3).double()
    for _ in range(5):
        layer(conv(torch.randn(2, 3, 5, 5, dtype=torch.float64))).sum().backward()
    assert len(layer._past) == 2
    kept = [tensor for past in layer._past for tensor in vars(past).values()]
    assert not any(tensor.requires_grad for tensor in kept)


def test_compiled_around_it():
    """The graph breaks at the layer; with fullgraph=True that is an error, not another algorithm."""
    layer = build("cross_iteration_batch_norm", torch.float32)
    torch._dynamo.reset()
    x, theta = torch.randn(4, INPUTS), torch.randn(CHANNELS, INPUTS, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"torch\.compiler\.disable"):
        compiled(x @ theta.T, theta)


@pytest.mark.parametrize("keywords", [{"window": 0}, {"burn_in": -1}])
def test_numbers_that_cannot_be(keywords):
    with pytest.raises(ValueError, match="window is 1 or more and burn_in 0 or more; got"):
        normzoo.create("cross_iteration_batch_norm", CHANNELS, **keywords)
