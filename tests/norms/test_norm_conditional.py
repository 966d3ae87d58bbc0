"""Conditional norms: their formulas, the conformance suite, what they are at the ends, conditions refused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import normzoo
from normzoo.testing import checks
from tests.norms.conditional_oracles import NEEDED, ORACLES
from tests.norms.norm_cases import CHANNELS, an_input, marked

NAMES = normzoo.list_norms(kind="conditional")
# The suite's weights are about 1 and positive; sums over many of them are too large to compare under autocast.
SMALL = {"spade": {"hidden_features": 1, "kernel_size": 1}}
STYLED = ["adaptive_instance_norm", "adaptive_layer_norm"]


def build(name, dtype=torch.float64, channels=CHANNELS, **keywords):
    layer = normzoo.create(name, channels, **NEEDED[name], **keywords).to(dtype)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


def expected(name, layer, x, condition, **keywords):
    held = {key.replace(".", "_"): value.detach().double().numpy() for key, value in layer.named_parameters()}
    condition = condition.detach().double() if condition.is_floating_point() else condition
    return torch.from_numpy(ORACLES[name](x.detach().double().numpy(), condition.numpy(), **held, **keywords))


def conformance():
    for name in NAMES:
        norm = normzoo.factory(name, **NEEDED[name] | SMALL.get(name, {}))
        for check in checks(norm, reference=lambda x, c, layer, name=name: expected(name, layer, x, c)):
            yield marked(check, name)


@pytest.mark.parametrize("check", list(conformance()))
def test_conformance(check):
    check()


def test_every_conditional_norm_has_an_oracle():
    assert sorted(ORACLES) == NAMES == sorted(NEEDED)


@pytest.mark.parametrize("norm", NAMES)
def test_output_for_its_example_condition(norm):
    for rank in normzoo.info(norm).ranks:
        layer, x = build(norm), an_input(rank)
        condition = layer.example_condition(x)
        y = layer(x, condition)
        torch.testing.assert_close(y, expected(norm, layer, x, condition), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_spade_in_half_precision(dtype):
    """As close to float64 as its terms, which are up to a hundred times the output, can be rounded."""
    layer, x = build("spade", dtype), an_input(4, dtype, side=8)
    condition = layer.example_condition(x)
    x.requires_grad_()
    y = layer(x, condition)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    exact = expected("spade", layer, x, condition)
    assert (y.double() - exact).abs().max() <= 4 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", NAMES)
def test_half_precision_input_on_float32_parameters(norm, dtype):
    layer, x = build(norm, torch.float32), an_input(4, dtype, side=8)
    condition = layer.example_condition(x)
    y = layer(x, condition)
    assert y.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected(norm, layer, x, condition), rtol=8 * step, atol=8 * step)


@pytest.mark.parametrize("norm", NAMES)
def test_the_condition_of_a_sample_reaches_that_sample_alone(norm):
    layer, x = build(norm).eval(), an_input(4)
    one = layer.example_condition(x)
    other = one.clone()
    other[2] = other[2] + 1 if other.is_floating_point() else 1 - one[2].clamp(max=1)
    changed = (layer(x, one) != layer(x, other)).flatten(1).any(1)
    assert changed.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("norm", STYLED)
def test_gradients_reach_the_condition(norm):
    layer, x = build(norm, channels=4), an_input(3, samples=2, channels=4)
    condition = layer.example_condition(x).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: layer(x, c), condition)


@pytest.mark.parametrize("norm", NAMES)
def test_conditions_that_do_not_fit(norm):
    layer, x = build(norm), an_input(4)
    with pytest.raises(ValueError, match="takes as condition") as refusal:
        layer(x, layer.example_condition(x)[:-1])
    words = str(refusal.value)
    assert words.startswith(f"{type(layer).__name__}(8, ")
    assert "of the shape (6," in words
    assert "\n" not in words
    assert isinstance(refusal.value, normzoo.UserError)


@pytest.mark.parametrize("norm", ["conditional_batch_norm", "domain_specific_batch_norm"])
def test_labels_that_cannot_be(norm):
    layer, x = build(norm), an_input(4)
    with pytest.raises(ValueError, match=r"whole numbers; got torch.float64"):
        layer(x, torch.zeros(6, dtype=torch.float64))
    for label in (3, -1):
        with pytest.raises(IndexError):
            layer.eval()(x, torch.full((6,), label))
    with pytest.raises(ValueError, match=r"or more; got 0"):
        normzoo.create(norm, 8, **dict.fromkeys(NEEDED[norm], 0))


@pytest.mark.parametrize("norm", NAMES)
def test_a_statistic_over_one_value(norm):
    layer = build(norm, channels=1)
    x = torch.randn(1, 1, *[1] * (max(normzoo.info(norm).ranks[:3]) - 2), dtype=torch.float64)
    with pytest.raises(ValueError, match="a single value for each mean and variance"):
        layer(x, layer.example_condition(x))


def test_equal_rows_of_classes_are_batch_norm():
    layer, other, x = build("conditional_batch_norm"), normzoo.create("batch_norm", CHANNELS).double(), an_input(4)
    for key in ("weight", "bias"):
        getattr(layer, key).data.copy_(getattr(layer, key)[0].clone())
        getattr(other, key).data.copy_(getattr(layer, key)[0])
    for training in (True, True, False):
        layer.train(training)
        other.train(training)
        torch.testing.assert_close(layer(x, layer.example_condition(x)), other(x))
    for key in normzoo.info("batch_norm").state:
        torch.testing.assert_close(getattr(layer, key), getattr(other, key))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_domains_are_batch_norms_of_their_own(momentum):
    """Mixed in a batch or alone in one, three batches long, then in evaluation."""
    layer = build("domain_specific_batch_norm", momentum=momentum)
    own = [nn.BatchNorm2d(CHANNELS, momentum=momentum).double() for _ in range(2)]
    for d, batch_norm in enumerate(own):
        batch_norm.load_state_dict({"weight": layer.weight[d], "bias": layer.bias[d]}, strict=False)
    for training, domains in [(True, [0, 1, 0, 1, 1, 0]), (True, [1] * 6), (True, [0] * 5 + [1]), (False, [1, 0] * 3)]:
        layer.train(training)
        condition, x = torch.tensor(domains), an_input(4) + torch.tensor(domains).view(-1, 1, 1, 1)
        y = layer(x, condition)
        for d, batch_norm in enumerate(own):
            if d in domains:
                torch.testing.assert_close(y[condition == d], batch_norm.train(training)(x[condition == d]))
            torch.testing.assert_close(layer.running_mean[d], batch_norm.running_mean)
            torch.testing.assert_close(layer.running_var[d], batch_norm.running_var)
            assert layer.num_batches_tracked[d] == batch_norm.num_batches_tracked


def test_a_domain_with_a_single_value_keeps_its_running_statistics():
    layer, x = build("domain_specific_batch_norm"), an_input(2)
    before = copy.deepcopy(layer.state_dict())
    y = layer(x, torch.tensor([1, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(y[0], layer.bias[1])
    for key in normzoo.info("domain_specific_batch_norm").state:
        assert torch.equal(layer.state_dict()[key][1], before[key][1])
        assert not torch.equal(layer.state_dict()[key][0], before[key][0])


def test_adaptive_instance_norm_takes_over_the_styles_statistics():
    """From a map of another size."""
    x, style = an_input(4), 3 * an_input(4, side=7) + 5
    y = normzoo.create("adaptive_instance_norm", CHANNELS, eps=1e-14).double()(x, style)
    torch.testing.assert_close(y.mean((2, 3)), style.mean((2, 3)))
    torch.testing.assert_close(y.var((2, 3), correction=0), style.var((2, 3), correction=0))
    layer = normzoo.create("adaptive_instance_norm", CHANNELS)
    with pytest.raises(ValueError, match=r"\(6, 8, 1, 1\), which leaves a single value"):
        layer(x.float(), style[:, :, :1, :1].float())
    with pytest.raises(ValueError, match=r"takes as condition .* of the shape \(6, 8, any\)"):
        layer(x.float(), style[:, :, 0, 0].float())


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_adaptive_layer_norm_of_images_and_tokens(channel_dim):
    layer, x = build("adaptive_layer_norm", channel_dim=channel_dim), an_input(4)
    x = x.movedim(1, channel_dim)
    condition = layer.example_condition(x)
    y = expected("adaptive_layer_norm", layer, x, condition, channel_dim=channel_dim)
    torch.testing.assert_close(layer(x, condition), y, rtol=1e-12, atol=1e-12)


def test_adaptive_layer_norm_starts_as_a_layer_norm():
    layer, x = normzoo.create("adaptive_layer_norm", CHANNELS, condition_features=5), an_input(4, torch.float32)
    other = normzoo.create("layer_norm_channel", CHANNELS, eps=1e-6)
    torch.testing.assert_close(layer(x, layer.example_condition(x)), other(x))
    layer.modulation.reset_parameters()
    assert not layer.modulation.weight.any()


def test_spade_resizes_the_map_to_the_nearest_and_starts_around_one():
    layer, x = build("spade"), an_input(4, side=4)
    for size in ((8, 8), (2, 3), (4, 4)):
        condition = layer.example_condition(an_input(4)[:, :, :1, :1].expand(-1, -1, *size))
        torch.testing.assert_close(layer(x, condition), expected("spade", layer, x, condition), rtol=1e-12, atol=1e-12)
    assert (normzoo.create("spade", CHANNELS, label_channels=2).gamma.bias == 1).all()
    with pytest.raises(ValueError, match="kernel_size is an odd number"):
        normzoo.create("spade", CHANNELS, label_channels=2, kernel_size=2)
    with pytest.raises(ValueError, match=r"takes an input of \(N, C, H, W\)"):
        layer(an_input(3), condition)


def test_example_conditions_are_drawn_anew():
    for norm in NAMES:
        layer, x = build(norm), an_input(4, samples=64)
        one, other = (layer.example_condition(x) for _ in range(2))
        assert one.shape == other.shape
        assert not np.array_equal(one.numpy(), other.numpy())
