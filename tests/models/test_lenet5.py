"""LeNet-5: its parameters, its stages, the images it takes."""

import pytest
import torch
from torch import nn

import normzoo
from normzoo import UserError
from normzoo.models.blocks import Placement
from normzoo.models.lenet5 import LeNet5


def build(placement=None, norm=None, **options):
    norm = norm or normzoo.factory("batch_norm")
    return LeNet5(norm, placement or Placement(), **{"in_channels": 1, "num_classes": 10, **options})


def test_parameters_as_documented():
    model = build(Placement(where="none"))
    assert sum(p.numel() for p in model.parameters()) == 61_706
    assert [sum(p.numel() for p in part.parameters()) for part in (model.c1, model.c3, model.c5, model.f6)] == [
        156,
        2_416,
        48_120,
        10_164,
    ]


@pytest.mark.parametrize(
    ("order", "where", "expected"),
    [
        ("pre_act", "all", "cnap cnap cna lna l"),
        ("post_act", "all", "canp canp can lan l"),
        ("pre_act", "none", "cap cap ca la l"),
        ("pre_act", "first", "cnap cap ca la l"),
        ("pre_act", "last", "cap cap ca lna l"),
        ("pre_act", "all_but_last", "cnap cnap cna la l"),
        ("post_act", [0, 1], "canp canp ca la l"),
    ],
)
def test_where_the_norms_are(order, where, expected, spell, check_biases):
    model, x = build(Placement(order, where)), torch.randn(4, 1, 32, 32)
    assert spell(model, x) == expected.replace(" ", "")
    check_biases(model, x)


def test_the_placement_of_the_tutorials_takes_norms_of_maps_only():
    model = build(Placement("post_act", [0, 1]), nn.BatchNorm2d)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)


def test_activations_are_tanh_and_pooling_averages():
    kinds = {type(module) for module in build(Placement(where="none")).modules() if not list(module.children())}
    assert kinds - {nn.Sequential} == {nn.Conv2d, nn.Linear, nn.Tanh, nn.AvgPool2d}


@pytest.mark.parametrize("shape", [(28, 28), (29, 31), (32, 32), (30, 28)])
def test_a_smaller_image_is_centred_in_32x32_zeros(shape):
    model, image = build(Placement(where="none")), torch.randn(2, 1, *shape)
    field = torch.zeros(2, 1, 32, 32)
    top, left = (32 - shape[0]) // 2, (32 - shape[1]) // 2
    field[:, :, top : top + shape[0], left : left + shape[1]] = image
    torch.testing.assert_close(model(image), model(field))


@pytest.mark.parametrize("shape", [(8, 8), (27, 32), (33, 33), (224, 224)])
def test_other_images_are_refused(shape):
    with pytest.raises(UserError, match=rf"32x32.* got {shape[0]}x{shape[1]}: set data.image_size=32 or 28"):
        build()(torch.randn(2, 1, *shape))


def test_weights_are_xavier_uniform():
    model = build()
    bound = (6 / (16 * 25 + 120 * 25)) ** 0.5
    assert model.c5.conv.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert model.c5.conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert model.output.bias.abs().sum() == 0


def test_bad_arguments():
    with pytest.raises(UserError, match="lenet5: in_channels must be a positive integer, got 0"):
        build(in_channels=0)
    with pytest.raises(UserError, match=r"names stage 5, but this model has 4 stages: 0 to 3"):
        build(Placement(where=[0, 5]))
