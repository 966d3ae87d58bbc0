"""Options that users of other libraries look for: no bias, Gemma's and Llama's RMS norms, trailing dimensions."""

import copy

import pytest
import torch
from torch import nn

import normzoo
from tests.norms.conditional_oracles import NEEDED
from tests.norms.norm_cases import CHANNELS, an_input, build

WITH_BIAS = [name for name in normzoo.list_norms() if "bias" in normzoo.info(name).arguments]
BIAS_ALONE, WEIGHT_ALONE = "mean_only_batch_norm", "rms_norm"


def test_every_norm_with_an_affine_takes_bias():
    affine = {name for name in normzoo.list_norms() if "affine" in normzoo.info(name).arguments}
    assert affine - {BIAS_ALONE, WEIGHT_ALONE} <= set(WITH_BIAS)


@pytest.mark.parametrize("norm", WITH_BIAS)
def test_without_bias_is_with_a_bias_of_zero(norm):
    """In outputs, gradients and buffers, in training and evaluation; the bias is not in the state dict."""
    torch.manual_seed(0)
    layer, twin = build(norm, bias=False, **NEEDED.get(norm, {})), build(norm, **NEEDED.get(norm, {}))
    biases = [name for name, _ in twin.named_parameters() if name not in dict(layer.named_parameters())]
    assert biases
    assert all(name.endswith("bias") for name in biases)
    assert layer.bias is None
    twin.load_state_dict(layer.state_dict(), strict=False)
    for name in biases:
        nn.init.zeros_(twin.get_parameter(name))
    for training in (True, True, False):
        x, results = an_input(4), []
        condition = (layer.example_condition(x),) if hasattr(layer, "example_condition") else ()
        for each in (layer.train(training), twin.train(training)):
            leaf = x.clone().requires_grad_()
            y = each(leaf, *condition)
            y.pow(3).sum().backward()
            results.append([y, leaf.grad, *each.buffers()])
        torch.testing.assert_close(*results)
    layer.reset_parameters()
    assert "bias" not in layer.state_dict()


@pytest.mark.parametrize("norm", WITH_BIAS)
def test_without_affine_there_is_no_bias_either(norm):
    if "affine" not in normzoo.info(norm).arguments:
        pytest.skip("has always a weight")
    layer = normzoo.create(norm, CHANNELS, affine=False, bias=True, **NEEDED.get(norm, {}))
    assert (layer.weight, layer.bias) == (None, None)


def rms(x, eps=1e-6):
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({}, lambda x, weight: (rms(x) * weight.float()).to(x.dtype)),
        ({"weight_offset": 1.0}, lambda x, weight: (rms(x) * (1.0 + weight.float())).to(x.dtype)),
        ({"cast_before_weight": True}, lambda x, weight: weight * rms(x).to(x.dtype)),
    ],
    ids=["torch", "Gemma", "Llama"],
)
def test_rms_norm_rounds_as_each_library_does(dtype, options, formula):
    torch.manual_seed(0)
    layer = build("nn.RMSNorm", dtype, channels=64, eps=1e-6, **options)
    x = torch.randn(4, 7, 64).to(dtype) * 3
    torch.testing.assert_close(layer(x), formula(x, layer.weight), rtol=0, atol=1e-6 * (dtype == torch.float32))


def test_the_orders_of_rounding_differ():
    x = torch.randn(4, 7, 64).bfloat16()
    one, other = (build("nn.RMSNorm", torch.bfloat16, channels=64, cast_before_weight=cast) for cast in (True, False))
    other.load_state_dict(one.state_dict())
    assert not torch.equal(one(x), other(x))


def test_a_weight_with_an_offset_starts_as_a_plain_norm():
    layer, plain, x = (*(normzoo.create("rms_norm", 8, weight_offset=offset) for offset in (1.0, 0.0)), an_input(4))
    assert layer.weight.eq(0).all()
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("norm", "theirs"), [("layer_norm_channel", nn.LayerNorm), ("nn.LayerNorm", nn.LayerNorm), ("rms_norm", nn.RMSNorm)]
)
@pytest.mark.parametrize("sizes", [(8, 3, 3), [3, 3], (3,)])
def test_several_trailing_dimensions_are_torchs_normalized_shape(norm, theirs, sizes, affine):
    ours = normzoo.create(norm, sizes, eps=1e-3, affine=affine).double()
    twin = theirs(sizes, eps=1e-3, elementwise_affine=affine).double()
    for parameter in ours.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    twin.load_state_dict(ours.state_dict())
    x, results = an_input(4), []
    for layer in (ours, twin):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.pow(3).sum().backward()
        results.append([y, leaf.grad, *(parameter.grad for parameter in layer.parameters())])
    torch.testing.assert_close(*results)
    assert copy.deepcopy(ours).values_per_statistic(x.shape) == torch.Size(sizes).numel()


@pytest.mark.parametrize("norm", ["layer_norm_channel", "rms_norm"])
def test_trailing_dimensions_that_differ(norm):
    layer = normzoo.create(norm, (8, 4))
    with pytest.raises(ValueError, match=r"whose last dimensions are \(8, 4\); got the shape \(6, 8, 3\)"):
        layer(an_input(3, torch.float32))


@pytest.mark.parametrize("sizes", [(), (8, 0), (8, 1.5), (8, "3")])
def test_sizes_that_cannot_be(sizes):
    with pytest.raises((TypeError, ValueError), match="layer_norm_channel: num_features must be "):
        normzoo.create("layer_norm_channel", sizes)


@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm", "positional_norm"])
def test_sizes_where_a_norm_takes_channels(norm):
    with pytest.raises(TypeError, match=rf"{norm}: num_features must be a whole number, 1 or more; got \(8, 3\)"):
        normzoo.create(norm, (8, 3))
