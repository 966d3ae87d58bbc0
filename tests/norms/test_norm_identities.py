"""What must hold between norms, and between a norm and its input, by the mathematics."""

import pytest
import torch

import normzoo
from tests.norms.norm_cases import CHANNELS, an_input, build

# torch refuses 0 in batch norm; this much does not show in float64.
EPS = 1e-14


def assert_same(one, other, x):
    other.load_state_dict(one.state_dict(), strict=False)
    torch.testing.assert_close(one(x), other(x))


@pytest.mark.parametrize("suffix", ["", "_scratch"])
@pytest.mark.parametrize("dimensions", [2, 3, 4, 5])
def test_group_norm_of_one_group_is_layer_norm(suffix, dimensions):
    one = build(f"group_norm{suffix}", num_groups=1)
    assert_same(one, build(f"layer_norm{suffix}"), an_input(dimensions))


@pytest.mark.parametrize("suffix", ["", "_scratch"])
@pytest.mark.parametrize("dimensions", [3, 4, 5])
def test_group_norm_of_c_groups_is_instance_norm(suffix, dimensions):
    one = build(f"group_norm{suffix}", num_groups=CHANNELS)
    assert_same(one, build(f"instance_norm{suffix}"), an_input(dimensions))


def test_layer_norm_without_positions_is_that_of_the_channels():
    assert_same(build("layer_norm"), build("layer_norm_channel"), an_input(2))


def test_layer_norm_of_tokens_is_that_of_images_with_the_channels_moved():
    images, tokens = build("layer_norm_channel"), build("layer_norm_channel", channel_dim=-1)
    tokens.load_state_dict(images.state_dict())
    x = an_input(4)
    torch.testing.assert_close(images(x).movedim(1, -1), tokens(x.movedim(1, -1)))


def test_ghost_batch_norm_of_one_group_is_batch_norm():
    one, x = build("ghost_batch_norm", group_size=6), an_input(4)
    other = build("batch_norm")
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), other(x))
    torch.testing.assert_close(one.state_dict(), other.state_dict())


def test_ghost_batch_norm_of_single_samples_is_instance_norm():
    assert_same(build("ghost_batch_norm", group_size=1), build("instance_norm"), an_input(4))


def test_one_sample_of_batch_norm_is_instance_norm():
    assert_same(build("batch_norm"), build("instance_norm"), an_input(4, samples=1))


@pytest.mark.parametrize("scaled", ["batch_norm", "batch_norm_scratch", "ghost_batch_norm"])
def test_the_scale_of_the_weights_before_it_is_lost(scaled):
    """BN(aWu) = BN(Wu), and ∂BN/∂(aW) = ∂BN/∂W / a: section 3.3 of the batch norm paper."""
    layer, u, a = build(scaled, eps=EPS), an_input(2), 7.0
    w = torch.randn(CHANNELS, CHANNELS, dtype=torch.float64)
    w1, wa = w.clone().requires_grad_(), (a * w).requires_grad_()
    g = torch.randn_like(u)
    y1, ya = layer(u @ w1), layer(u @ wa)
    torch.testing.assert_close(y1, ya)
    y1.backward(g)
    ya.backward(g)
    torch.testing.assert_close(w1.grad / a, wa.grad)


@pytest.mark.parametrize("shift", [3.0, -1e3])
@pytest.mark.parametrize("factor", [4.0, 1e-2])
def test_output_is_invariant_to_offset_and_scale(standardizer, shift, factor):
    layer, x = build(standardizer, eps=EPS), an_input(4)
    torch.testing.assert_close(layer(factor * x + shift), layer(x))


@pytest.mark.parametrize("dimensions", [2, 4])
@pytest.mark.parametrize("batch_norm", ["batch_norm", "batch_norm_scratch", "sync_batch_norm"])
def test_identity_is_recovered(batch_norm, dimensions):
    """At weight = sqrt(var + eps), bias = mean, after a dense and a convolutional layer, in training and evaluation."""
    layer, x = build(batch_norm, momentum=1.0), an_input(dimensions)
    over = (0, *range(2, dimensions))
    with torch.no_grad():
        layer.weight.copy_((x.var(over, correction=0) + layer.eps).sqrt())
        layer.bias.copy_(x.mean(over))
    torch.testing.assert_close(layer(x), x)
    layer.eval()
    with torch.no_grad():
        layer.weight.copy_((layer.running_var + layer.eps).sqrt())
        layer.bias.copy_(layer.running_mean)
    torch.testing.assert_close(layer(x), x)


def test_normalized_values_have_mean_zero_and_variance_one():
    over = {"batch_norm": (0, 2, 3), "layer_norm": (1, 2, 3), "instance_norm": (2, 3), "layer_norm_channel": (1,)}
    for name, dims in over.items():
        y = normzoo.create(name, CHANNELS, eps=EPS).double()(an_input(4))
        torch.testing.assert_close(y.mean(dims), torch.zeros_like(y.mean(dims)))
        torch.testing.assert_close(y.var(dims, correction=0), torch.ones_like(y.mean(dims)))
