"""The multilayer perceptron: norms on inputs (N, C)."""

from functools import partial

import pytest
import torch
from torch import nn

from normzoo import UserError
from normzoo.models.blocks import Placement
from normzoo.models.mlp import MLP


def build(placement=None, norm=nn.BatchNorm1d, **options):
    options = {"in_channels": 1, "num_classes": 10, "image_size": 28, **options}
    return MLP(norm, placement or Placement(), **options)


def test_parameters_as_documented():
    assert sum(p.numel() for p in build(Placement(where="none"), activation="sigmoid").parameters()) == 99_710


@pytest.mark.parametrize(
    ("order", "where", "expected"),
    [
        ("pre_act", "all", "lna lna lna l"),
        ("post_act", "all", "lan lan lan l"),
        ("pre_act", "none", "la la la l"),
        ("pre_act", "first", "lna la la l"),
        ("pre_act", "last", "la la lna l"),
        ("pre_act", "all_but_last", "lna lna la l"),
        ("post_act", [0, 2], "lan la lan l"),
    ],
)
def test_where_the_norms_are(order, where, expected, spell, check_biases):
    for norm in (nn.BatchNorm1d, nn.LayerNorm, partial(nn.BatchNorm1d, affine=False), nn.Identity):
        model, x = build(Placement(order, where), norm), torch.randn(4, 1, 28, 28)
        assert spell(model, x) == expected.replace(" ", "")
        check_biases(model, x)


def test_the_weights_suit_the_activation():
    assert build(hidden=[500]).hidden[0].linear.weight.std().item() == pytest.approx((2 / 784) ** 0.5, rel=0.02)
    xavier = build(hidden=[500], activation="tanh").hidden[0].linear.weight
    assert xavier.std().item() == pytest.approx((2 / (784 + 500)) ** 0.5, rel=0.02)


def test_images_that_are_not_square_or_of_one_channel():
    model = build(in_channels=3, image_size=[6, 4], hidden=[5])
    assert model(torch.randn(2, 3, 6, 4)).shape == (2, 10)
    assert model.hidden[0].linear.in_features == 72


def test_an_image_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"shape \(1, 28, 28\) \(C, H, W\), got \(1, 8, 8\): set model.image_size"):
        build()(torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "swish"}, "activation='swish' is unknown; choose one of relu, leaky_relu, gelu, tanh"),
        ({"hidden": []}, "hidden must be one or more positive integers"),
        ({"hidden": [100, -1]}, "hidden must be"),
        ({"image_size": None}, "needs the size of the images, .* set data.image_size or model.image_size"),
        ({"image_size": 0}, "image_size must be a positive integer"),
        ({"image_size": [28, 28, 1]}, "one side, or height and width"),
        ({"num_classes": 0}, "num_classes must be"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)
