"""The plain network: its stages, its parameters, what it refuses."""

import pytest
import torch
from torch import nn

from normzoo import UserError
from normzoo.models.blocks import Placement
from normzoo.models.plain_cnn import PlainCNN


def build(norm=nn.BatchNorm2d, placement=None, **options):
    return PlainCNN(norm, placement or Placement(), **{"in_channels": 1, "num_classes": 10, **options})


@pytest.mark.parametrize("side", [1, 7, 8, 16, 28])
def test_images_of_any_size(side):
    assert build().eval()(torch.randn(2, 1, side, side)).shape == (2, 10)


def test_an_8x8_image_shrinks_to_one_pixel():
    x = torch.randn(2, 1, 8, 8)
    sides = []
    for stage in build().stages:
        x = stage(x)
        sides.append(x.shape[-1])
    assert sides == [8, 4, 2, 1]


def test_parameters_as_documented():
    parameters = dict(build().named_parameters())
    of_norms = sum(p.numel() for name, p in parameters.items() if ".norm." in name)
    weights = sum(p.numel() for name, p in parameters.items() if name.endswith(("conv.weight", "classifier.weight")))
    assert (weights, of_norms, sum(p.numel() for p in parameters.values())) == (24_904, 240, 24_904 + 240 + 10)


@pytest.mark.parametrize(
    ("order", "where", "expected"),
    [
        ("pre_act", "all", "cna cna cna cna l"),
        ("post_act", "all", "can can can can l"),
        ("pre_act", "none", "ca ca ca ca l"),
        ("pre_act", "first", "cna ca ca ca l"),
        ("pre_act", "last", "ca ca ca cna l"),
        ("pre_act", "all_but_last", "cna cna cna ca l"),
        ("post_act", [1, 3], "ca can ca can l"),
    ],
)
def test_where_the_norms_are(order, where, expected, spell, check_biases):
    model, x = build(placement=Placement(order, where)), torch.randn(2, 1, 8, 8)
    assert spell(model, x) == expected.replace(" ", "")
    check_biases(model, x)


def test_a_convolution_that_keeps_its_bias(check_biases, scale_only, spell):
    for norm in (scale_only, nn.Identity, lambda c: nn.BatchNorm2d(c, affine=False)):
        model = build(norm)
        check_biases(model, torch.randn(2, 1, 8, 8))
        assert spell(model, torch.randn(2, 1, 8, 8)) == "cna" * 4 + "l"
        assert all(stage.conv.bias is not None for stage in model.stages)


def test_depth_width_and_stride_are_chosen(spell):
    model = build(widths=[4, 4, 6, 6, 10, 10], strides=[1, 1, 2, 1, 2, 1], in_channels=3, num_classes=7)
    assert [stage.conv.out_channels for stage in model.stages] == [4, 4, 6, 6, 10, 10]
    assert [stage.conv.stride[0] for stage in model.stages] == [1, 1, 2, 1, 2, 1]
    assert model(torch.randn(2, 3, 9, 12)).shape == (2, 7)
    assert spell(build(placement=Placement(where="last"), widths=[4], strides=[1]), torch.randn(2, 1, 8, 8)) == "cnal"


def test_weights_are_he_normal():
    conv = build(widths=[64, 256], strides=[1, 1]).stages[1].conv
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert build(placement=Placement(where="none")).stages[0].conv.bias.abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [8, 16]}, r"2 widths=\[8, 16\] but 4 strides=\[1, 2, 2, 2\]; give one stride per width"),
        ({"widths": [], "strides": []}, "widths must be one or more positive integers"),
        ({"widths": [8, 0], "strides": [1, 1]}, r"widths must be .* got \[8, 0\]"),
        ({"strides": [1, 2, 2, -2]}, "strides must be"),
        ({"in_channels": 0}, "in_channels must be a positive integer, got 0"),
        ({"num_classes": "ten"}, "num_classes must be a positive integer, got 'ten'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_a_stage_beyond_the_last():
    with pytest.raises(UserError, match=r"names stage 4, but this model has 4 stages"):
        build(placement=Placement(where=[4]))
