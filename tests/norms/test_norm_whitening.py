"""Whitening: what is left correlated, the gradient where eigenvalues meet, running matrices, too few values."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import normzoo
from normzoo.norms._kernels.inverse_root import inverse_root
from normzoo.surgery.recalibrate import recalibrate
from normzoo.testing import checks
from tests.norms.mixture_oracles import newton, zca
from tests.norms.norm_cases import CHANNELS, an_input, build

WHITENING = ["decorrelated_batch_norm", "iter_norm"]
EPS = 1e-14


def correlated(samples=6, side=5, channels=CHANNELS, dtype=torch.float64):
    """Channels of correlations up to 0.9 and of different means and spreads."""
    x = torch.randn(channels, samples, side, side, dtype=torch.float64)
    mix = torch.eye(channels, dtype=torch.float64) + 0.5 * torch.rand(channels, channels, dtype=torch.float64)
    return (torch.einsum("ij,jnhw->nihw", mix, x) + torch.arange(channels).view(-1, 1, 1)).to(dtype)


def covariance(y, channels_per_group):
    """Of each group of channels, stacked."""
    columns = y.transpose(0, 1).reshape(-1, channels_per_group, y.numel() // y.shape[1])
    centred = columns - columns.mean(-1, keepdim=True)
    return centred @ centred.mT / centred.shape[-1]


@pytest.mark.parametrize(("size", "shown"), [(8, 1), (4, 2), (1, 8)])
def test_zca_leaves_no_correlation_within_a_group(size, shown):
    layer = normzoo.create("decorrelated_batch_norm", CHANNELS, channels_per_group=size, eps=EPS).double()
    sigma = covariance(layer(correlated()), size)
    torch.testing.assert_close(sigma, torch.eye(size, dtype=torch.float64).expand(shown, size, size))


def test_zca_is_the_whitening_nearest_to_the_input():
    """Its matrix is symmetric and positive; any other rotation of it whitens too, but farther from x."""
    x = correlated()
    layer = normzoo.create("decorrelated_batch_norm", CHANNELS, channels_per_group=8, momentum=1.0).double()
    y = layer(x)
    matrix = layer.running_whitening[0]
    torch.testing.assert_close(matrix, matrix.mT)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    centred = x - x.mean((0, 2, 3), keepdim=True)
    assert (y - centred).square().sum() < (torch.einsum("ij,njhw->nihw", rotation, y) - centred).square().sum()


@pytest.mark.parametrize("norm", WHITENING)
def test_groups_of_one_channel_are_batch_norm(norm):
    layer, x = build(norm, channels_per_group=1), an_input(4)
    other = build("batch_norm")
    other.load_state_dict({"weight": layer.weight, "bias": layer.bias}, strict=False)
    torch.testing.assert_close(layer(x), other(x))


def test_newtons_iteration_tends_to_zca():
    x = correlated()
    exact = normzoo.create("decorrelated_batch_norm", CHANNELS).double()(x)
    errors = []
    for iterations in (1, 5, 9, 30):
        y = normzoo.create("iter_norm", CHANNELS, iterations=iterations).double()(x)
        errors.append((y - exact).abs().max().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9


@pytest.mark.parametrize(("share", "variance"), [(0.5, 1.0), (0.1, 0.995), (0.01, 0.43)])
def test_five_iterations_whiten_the_directions_of_much_variance(share, variance):
    """As the docstring says: the variance of a direction, by its share in that of the group."""
    sigma = np.diag([share, *[(1 - share) / 2] * 2])
    root = newton(sigma, 5)
    assert (root @ sigma @ root)[0, 0] == pytest.approx(variance, abs=0.005)


def sym(matrix):
    return (matrix + matrix.mT) / 2


@pytest.mark.parametrize("eigenvalues", [[1, 1, 1, 1], [2, 2, 0.5, 0.5], [3, 1, 0.1, 0.01]])
def test_the_gradient_of_the_root_holds_where_eigenvalues_are_equal(eigenvalues):
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    sigma = sym(rotation @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ rotation.mT).requires_grad_()
    root = inverse_root(sigma, 1e-5)
    torch.testing.assert_close(root @ root @ sigma, torch.eye(4, dtype=torch.float64))
    assert gradcheck(lambda s: inverse_root(sym(s), 1e-5), sigma)
    assert gradgradcheck(lambda s: inverse_root(sym(s), 1e-5), sigma)


def test_the_gradient_of_the_root_is_that_through_the_eigenvectors_where_they_differ():
    a = torch.randn(3, 5, 5, dtype=torch.float64)
    sigma = (a @ a.mT + 0.1 * torch.eye(5)).requires_grad_()
    eigenvalues, d = torch.linalg.eigh(sigma)
    roots = inverse_root(sigma, 1e-5), d @ torch.diag_embed(eigenvalues.rsqrt()) @ d.mT
    g = sym(torch.randn_like(a))
    torch.testing.assert_close(*roots)
    torch.testing.assert_close(*(sym(torch.autograd.grad(root, sigma, g)[0]) for root in roots))


@pytest.mark.parametrize("norm", WHITENING)
def test_white_and_constant_inputs_have_finite_gradients(norm):
    """All eigenvalues equal: 1 + eps, and eps."""
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64)
    for x in (torch.cat([signs, -signs]), torch.zeros(8, 4, dtype=torch.float64)):
        layer = build(norm, channels=4, channels_per_group=4)
        x.requires_grad_()
        layer(x).pow(3).sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("norm", WHITENING)
def test_running_mean_and_whitening(norm, momentum):
    layer = build(norm, channels_per_group=4, momentum=momentum)
    mean, whitening = np.zeros(CHANNELS), np.stack([np.eye(4)] * 2)
    for step in range(1, 5):
        x = correlated() + step
        layer(x)
        sigma = covariance(x, 4).numpy() + layer.eps * np.eye(4)
        root = zca if norm == "decorrelated_batch_norm" else lambda sigma: newton(sigma, 5)
        w = 1 / step if momentum is None else momentum
        mean = (1 - w) * mean + w * x.mean((0, 2, 3)).numpy()
        whitening = (1 - w) * whitening + w * np.stack([root(each) for each in sigma])
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_whitening.numpy(), whitening, rtol=1e-8, atol=1e-10)
    x = correlated()
    grouped = (x - torch.from_numpy(mean).view(-1, 1, 1)).unflatten(1, (2, 4))
    y = torch.einsum("gij,ngjhw->ngihw", torch.from_numpy(whitening), grouped).flatten(1, 2)
    y = y * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(layer.eval()(x), y, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("norm", WHITENING)
def test_is_recalibrated_and_reset(norm):
    model, x = nn.Sequential(build(norm)), correlated()
    model(x + 100)
    recalibrate(model, [x])
    torch.testing.assert_close(model(x), model.train()(x))
    model[0].reset_running_stats()
    torch.testing.assert_close(model[0].running_whitening, torch.eye(4).double().expand(2, 4, 4))


@pytest.mark.parametrize("norm", WHITENING)
def test_too_few_values_are_refused(norm):
    layer = build(norm, channels_per_group=8)
    with pytest.raises(ValueError, match="8 values of each channel to whiten groups of 8 channels") as refusal:
        layer(torch.randn(2, 8, 2, 2, dtype=torch.float64))
    words = str(refusal.value)
    assert words.startswith(repr(layer))
    assert "at least 9 are needed" in words
    assert "(2, 8, 2, 2)" in words
    assert "channels_per_group=4 or less" in words
    assert isinstance(refusal.value, normzoo.UserError)
    assert layer.num_batches_tracked == 0
    assert layer.eval()(torch.randn(1, 8, dtype=torch.float64)).isfinite().all()
    assert build(norm, channels_per_group=8)(torch.randn(9, 8, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("norm", WHITENING)
@pytest.mark.parametrize(("channels", "values"), [(64, 16), (64, 3), (48, 15), (13, 12), (64, 2)])
def test_the_refusal_names_the_largest_group_that_will_do(norm, channels, values):
    x = torch.randn(values, channels, dtype=torch.float64)
    with pytest.raises(ValueError, match="or less, or use a larger batch") as refusal:
        normzoo.create(norm, channels, num_groups=1).double()(x)
    size = int(re.search(r"channels_per_group=(\d+)", str(refusal.value)).group(1))
    assert normzoo.create(norm, channels, channels_per_group=size).double()(x).isfinite().all()
    larger = [d for d in range(size + 1, channels + 1) if channels % d == 0]
    with pytest.raises(ValueError, match="at least"):
        normzoo.create(norm, channels, channels_per_group=larger[0]).double()(x)


@pytest.mark.parametrize("norm", WHITENING)
def test_the_suite_asks_for_the_minimum_that_the_layer_states(norm):
    factory = normzoo.factory(norm, channels_per_group=8)
    assert factory(8).minimum_count == 9 > normzoo.info(norm).minimum_count
    (one_sample,) = (check for check in checks(factory) if str(check) == "one_sample")
    one_sample()


def test_the_bound_is_where_the_input_begins_to_matter():
    """Of d values for d channels, all at one distance from each other afterwards, whatever they were."""
    layer = normzoo.create("decorrelated_batch_norm", 4, channels_per_group=4, eps=EPS).double()
    for values, the_same in ((4, True), (7, False)):
        x = torch.randn(values, 4, dtype=torch.float64)
        centred = x - x.mean(0)
        root = torch.linalg.pinv(sym(centred.mT @ centred / values), rtol=1e-10, hermitian=True)
        distances = torch.pdist(centred @ torch.from_numpy(sqrtm(root.numpy())))
        assert torch.allclose(distances, distances[0]) is the_same
    with pytest.raises(ValueError, match="at least 5"):
        layer(torch.randn(4, 4, dtype=torch.float64))


def sqrtm(matrix):
    eigenvalues, d = np.linalg.eigh(matrix)
    return d @ np.diag(np.sqrt(eigenvalues.clip(min=0))) @ d.T


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (2, 1), (3, 1), (8, 4), (13, 1), (16, 8), (64, 16), (96, 16)])
def test_default_channels_per_group(channels, size):
    for norm in WHITENING:
        assert normzoo.create(norm, channels).channels_per_group == size


def test_arguments_that_cannot_be():
    with pytest.raises(ValueError, match=r"12 channels .* 5 groups: num_groups must be one of"):
        normzoo.create("iter_norm", 12, num_groups=5)
    with pytest.raises(ValueError, match="give one of them"):
        normzoo.create("decorrelated_batch_norm", 12, num_groups=4, channels_per_group=3)
    with pytest.raises(ValueError, match="iterations is the number of Newton's steps, 1 or more"):
        normzoo.create("iter_norm", 8, iterations=0)


@pytest.mark.parametrize("norm", WHITENING)
def test_what_has_diverged_gives_nan_and_no_error(norm):
    """In its own group of channels alone."""
    x = correlated()
    x[0, 0] = torch.nan
    y = normzoo.create(norm, CHANNELS).double()(x)
    assert y[:, :4].isnan().all()
    assert y[:, 4:].isfinite().all()


@pytest.mark.parametrize("norm", WHITENING)
def test_autocast_does_not_reach_the_covariance(norm):
    """Nearly dependent channels, whose covariance in bfloat16 would not even be positive."""
    x = correlated(samples=16, side=8, dtype=torch.float32)
    x[:, 1] = x[:, 0] + 0.02 * x[:, 1]
    layer = normzoo.create(norm, CHANNELS)
    y = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), y)
