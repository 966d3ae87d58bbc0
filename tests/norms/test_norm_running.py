"""Running statistics: torch's moving average, Caffe's, and the cumulative one."""

import numpy as np
import pytest
import torch

import normzoo
from tests.norms.norm_cases import CHANNELS, an_input, build

BATCH_NORMS = ["batch_norm", "batch_norm_scratch", "sync_batch_norm", "ghost_batch_norm"]


def feed(layer, count):
    """Train on `count` batches; their means and unbiased variances."""
    batches = [an_input(4) + step for step in range(count)]
    for x in batches:
        layer(x)
    return [x.mean((0, 2, 3)).numpy() for x in batches], [x.var((0, 2, 3)).numpy() for x in batches]


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_moving_average_of_torch(norm):
    layer = build(norm, momentum=0.3)
    means, variances = feed(layer, 7)
    for running, start, values in ((layer.running_mean, 0.0, means), (layer.running_var, 1.0, variances)):
        expected = np.full(CHANNELS, start)
        for value in values:
            expected = 0.7 * expected + 0.3 * value
        np.testing.assert_allclose(running.numpy(), expected, rtol=1e-12)
    assert layer.num_batches_tracked == 7


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_cumulative_average(norm):
    layer = build(norm, momentum=None)
    means, variances = feed(layer, 7)
    np.testing.assert_allclose(layer.running_mean.numpy(), np.mean(means, axis=0), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), np.mean(variances, axis=0), rtol=1e-12)


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.999])
def test_moving_average_of_caffe(fraction):
    """Its layer keeps sums of statistics and of weights, each faded by α a step, and reads their quotient."""
    layer = build("batch_norm_scratch", moving_average_fraction=fraction)
    means, variances = feed(layer, 20)
    for running, values in ((layer.running_mean, means), (layer.running_var, variances)):
        total, weight = np.zeros(CHANNELS), 0.0
        for value in values:
            total, weight = fraction * total + value, fraction * weight + 1
        np.testing.assert_allclose(running.numpy(), total / weight, rtol=1e-10)


def test_moving_average_of_caffe_has_no_start():
    """The first batch replaces the initial 0 and 1, where a plain moving average would keep 99.9 % of them."""
    layer = build("batch_norm_scratch", moving_average_fraction=0.999)
    (mean,), (var,) = feed(layer, 1)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-14)
    np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-14)


def test_moving_average_of_caffe_tends_to_the_plain_one():
    """Its manual's S ← α S + (1 − α) new, once the start is forgotten."""
    caffe = build("batch_norm_scratch", moving_average_fraction=0.5)
    plain = build("batch_norm", momentum=0.5)
    assert caffe.momentum == 0.5
    for step in range(60):
        x = an_input(2) + step
        caffe(x)
        plain(x)
    torch.testing.assert_close(caffe.running_mean, plain.running_mean, rtol=1e-12, atol=0)


def test_count_of_batches_goes_on_after_loading():
    one = build("batch_norm_scratch", moving_average_fraction=0.9)
    feed(one, 3)
    other = build("batch_norm_scratch", moving_average_fraction=0.9)
    other.load_state_dict(one.state_dict())
    x = an_input(4)
    one(x)
    other(x)
    torch.testing.assert_close(other.state_dict(), one.state_dict())


def test_running_statistics_are_float32_for_half_precision_input():
    for norm in (*BATCH_NORMS, "instance_norm"):
        keywords = {"track_running_stats": True} if norm == "instance_norm" else {}
        layer = normzoo.create(norm, CHANNELS, **keywords)
        x = an_input(4, torch.bfloat16)
        layer(x)
        assert layer.running_var.dtype == torch.float32
        over = (0, 2, 3) if norm != "instance_norm" else (2, 3)
        var = x.float().var(over).view(-1, CHANNELS).mean(0)
        torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * var, rtol=1e-5, atol=1e-6)


def test_cumulative_average_of_instance_norm():
    """Which torch's layer does not have: without a momentum it never moves."""
    layer = build("instance_norm", momentum=None, track_running_stats=True)
    batches = [an_input(4) for _ in range(4)]
    for x in batches:
        layer(x)
    torch.testing.assert_close(layer.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([x.var((2, 3)).mean(0) for x in batches]).mean(0))


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_reset_and_freeze(norm):
    layer = build(norm)
    feed(layer, 2)
    layer.reset_running_stats()
    assert not layer.running_mean.any()
    assert layer.num_batches_tracked == 0
    layer.requires_grad_(False)
    x = an_input(4)
    assert not layer(x).requires_grad
