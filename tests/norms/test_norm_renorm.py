"""Batch renorm over many batches: its algorithm step by step, its schedule, and batch norm at the limits."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import normzoo
from tests.norms.norm_cases import CHANNELS, an_input, build
from tests.norms.transforms import assert_replicas, assert_same_compiled, train_step

SCHEDULE = {"warmup_steps": 2, "r_max_steps": 6, "d_max_steps": 4, "r_max": 1.5, "d_max": 0.4}
FULL = {"warmup_steps": 0, "r_max_steps": 0, "d_max_steps": 0}


class Simulation:
    """Algorithm 1 for one channel, and the gradient under it, in NumPy."""

    def __init__(self, weight, bias, eps, momentum, schedule):
        self.weight, self.bias, self.eps, self.momentum, self.schedule = weight, bias, eps, momentum, schedule
        self.mean, self.sigma, self.t = 0.0, np.sqrt(1 + eps), 0

    def limit(self, start, end, steps):
        first = self.schedule["warmup_steps"]
        return np.interp(self.t, [first, steps], [start, end])

    def forward(self, x):
        s = self.schedule
        r_max, d_max = self.limit(1.0, s["r_max"], s["r_max_steps"]), self.limit(0.0, s["d_max"], s["d_max_steps"])
        self.mu, self.std = x.mean(), np.sqrt(x.var() + self.eps)
        self.r = np.clip(self.std / self.sigma, 1 / r_max, r_max)
        self.d = np.clip((self.mu - self.mean) / self.sigma, -d_max, d_max)
        self.mean += self.momentum * (self.mu - self.mean)
        self.sigma += self.momentum * (self.std - self.sigma)
        self.t += 1
        self.x, self.x_hat = x, (x - self.mu) / self.std * self.r + self.d
        return self.weight * self.x_hat + self.bias

    def backward(self, g):
        """The paper's chain rule, with r and d as constants."""
        g_x_hat = g * self.weight
        g_std = np.sum(g_x_hat * (self.x - self.mu) * -self.r / self.std**2)
        g_mu = np.sum(g_x_hat * -self.r / self.std)
        m = len(self.x)
        g_x = g_x_hat * self.r / self.std + g_std * (self.x - self.mu) / (m * self.std) + g_mu / m
        return g_x, np.sum(g * self.x_hat), np.sum(g)


def flat(x, c):
    return x[:, c].detach().numpy().ravel()


def test_algorithm_step_by_step():
    layer = build("batch_renorm", momentum=0.3, **SCHEDULE)
    twins = [
        Simulation(w.item(), b.item(), layer.eps, 0.3, SCHEDULE) for w, b in zip(layer.weight, layer.bias, strict=True)
    ]
    clipped = set()
    for step in range(9):
        x = (an_input(4) * (1 + 0.2 * (-1) ** step) + step / 2).requires_grad_()
        g = torch.randn_like(x)
        y = layer(x)
        gradients = torch.autograd.grad(y, [x, layer.weight, layer.bias], g)
        for c, twin in enumerate(twins):
            np.testing.assert_allclose(flat(y, c), twin.forward(flat(x, c)), rtol=1e-10, atol=1e-12)
            clipped.add((abs(np.log(twin.r)) < np.log(1.5) - 1e-9, abs(twin.d) < 0.4 - 1e-9))
            g_x, g_weight, g_bias = twin.backward(flat(g, c))
            np.testing.assert_allclose(flat(gradients[0], c), g_x, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose([gradients[1][c], gradients[2][c]], [g_weight, g_bias], rtol=1e-9)
            np.testing.assert_allclose(layer.running_mean[c], twin.mean, rtol=1e-12)
            np.testing.assert_allclose((layer.running_var[c] + layer.eps).sqrt(), twin.sigma, rtol=1e-12)
    assert layer.num_batches_tracked == 9
    assert len(clipped) > 1, "both sides of a limit are met"


def test_schedule_of_the_paper():
    """1 and 0 up to step 5000; 3 from step 40000 and 5 from step 25000 on; linear between."""
    layer = normzoo.create("batch_renorm", CHANNELS)
    for step, r_max, d_max in [
        (0, 1, 0),
        (5_000, 1, 0),
        (6_000, 1 + 2 / 35, 0.25),
        (15_000, 1 + 20 / 35, 2.5),
        (25_000, 1 + 40 / 35, 5),
        (40_000, 3, 5),
        (1_000_000, 3, 5),
    ]:
        layer.num_batches_tracked.fill_(step)
        torch.testing.assert_close(torch.stack(layer.limits()), torch.tensor([r_max, d_max], dtype=torch.float64))


@pytest.mark.parametrize("keywords", [{}, {"r_max": 1.0, "d_max": 0.0, **FULL}], ids=["warming up", "no limits"])
def test_is_batch_norm_at_the_limits(keywords):
    """In output and gradient, whatever the running statistics, here those of other data."""
    layer, other = build("batch_renorm", **keywords), build("batch_norm")
    layer(an_input(4) + 3)
    other.load_state_dict(layer.state_dict())
    x = an_input(4)
    torch.testing.assert_close(train_step(layer, x)[:4], train_step(other, x)[:4])


def test_without_limits_training_is_evaluation():
    layer = build("batch_renorm", r_max=1e9, d_max=1e9, **FULL)
    layer(an_input(4) + 3)
    x = an_input(4)
    expected = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), expected)


def test_small_batches_do_not_lose_their_offset():
    """Two values normalize to ±1 in batch norm; corrected, they keep where they lie in the running distribution."""
    layer = normzoo.create("batch_renorm", 1, **FULL, r_max=100.0, d_max=100.0).double()
    layer.running_mean.fill_(1.0)
    layer.running_var.fill_(4.0)
    layer.num_batches_tracked.fill_(1)
    y = layer(torch.tensor([[1.5], [2.0]], dtype=torch.float64))
    torch.testing.assert_close(y.flatten(), torch.tensor([0.25, 0.5], dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_state_is_that_of_batch_norm():
    theirs = nn.BatchNorm2d(CHANNELS).double()
    theirs(an_input(4))
    layer = build("batch_renorm")
    assert list(layer.state_dict()) == list(theirs.state_dict())
    layer.load_state_dict(theirs.state_dict())
    x = an_input(4)
    torch.testing.assert_close(layer.eval()(x), theirs.eval()(x))


def test_goes_on_after_loading():
    one, other = (build("batch_renorm", **SCHEDULE) for _ in range(2))
    for _ in range(4):
        one(an_input(4))
    other.load_state_dict(one.state_dict())
    x = an_input(4)
    torch.testing.assert_close(train_step(other, x), train_step(one, x), rtol=0, atol=0)


def test_cumulative_average_is_of_the_deviation():
    layer = build("batch_renorm", momentum=None)
    batches = [an_input(4) * (step + 1) for step in range(4)]
    for x in batches:
        layer(x)
    sigma = torch.stack([(x.var((0, 2, 3), correction=0) + layer.eps).sqrt() for x in batches]).mean(0)
    torch.testing.assert_close(layer.running_var, sigma.square() - layer.eps)
    torch.testing.assert_close(layer.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))


@pytest.mark.parametrize("schedule", [FULL, SCHEDULE], ids=["no warm-up", "warming up"])
def test_compiled(schedule):
    assert_same_compiled(build("batch_renorm", torch.float32, **schedule))


def test_replicas_under_vmap():
    assert_replicas([build("batch_renorm", **SCHEDULE) for _ in range(3)])


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"r_max": 0.5}, "r_max is 1 or more"),
        ({"d_max": -1.0}, "d_max 0 or more"),
        ({"warmup_steps": 30_000}, "d_max_steps are not less; got warmup_steps=30000"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
    ],
)
def test_limits_that_cannot_be(keywords, words):
    with pytest.raises(ValueError, match=words):
        normzoo.create("batch_renorm", CHANNELS, **keywords)


@pytest.mark.parametrize("steps", [0, 3])
def test_limits_that_do_not_grow_are_final_at_once(steps):
    layer = build("batch_renorm", warmup_steps=steps, r_max_steps=steps, d_max_steps=steps)
    for step in range(steps + 2):
        limits = [3.0, 5.0] if step >= steps else [1.0, 0.0]
        torch.testing.assert_close(torch.stack(layer.limits()), torch.tensor(limits, dtype=torch.float64))
        layer(an_input(4))
