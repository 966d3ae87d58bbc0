"""VGG: parameter counts of torchvision's, where norms and poolings are, what it refuses."""

import pytest
import torch
import torchvision
from torch import nn

from normzoo import UserError
from normzoo.models.blocks import Placement
from normzoo.models.vgg import VGG

TRUE = {
    11: {"convs": [1, 1, 2, 2, 2], "widths": [64, 128, 256, 512, 512], "hidden": [4096, 4096], "dropout": 0.5},
    16: {"convs": [2, 2, 3, 3, 3], "widths": [64, 128, 256, 512, 512], "hidden": [4096, 4096], "dropout": 0.5},
}


def build(placement=None, norm=nn.BatchNorm2d, *, device="cpu", **options):
    with torch.device(device):
        return VGG(norm, placement or Placement(), **{"in_channels": 1, "num_classes": 10, **options})


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("depth", "parameters"), [(11, 132_863_336), (16, 138_357_544)])
def test_parameters_of_the_true_sizes(depth, parameters):
    options = {"device": "meta", "in_channels": 3, "num_classes": 1000, **TRUE[depth]}
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"vgg{depth}")()
        normed = getattr(torchvision.models, f"vgg{depth}_bn")()
    assert count(build(Placement(where="none"), **options)) == count(theirs) == parameters
    biases = sum(m.bias.numel() for m in normed.modules() if isinstance(m, nn.Conv2d))
    assert count(build(**options)) == count(normed) - biases


@pytest.mark.parametrize("depth", TRUE)
def test_the_layers_run_as_torchvisions(depth, spell):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"vgg{depth}_bn")()
        x = torch.empty(1, 3, 224, 224)
    ours = build(device="meta", in_channels=3, num_classes=1000, **TRUE[depth])
    assert spell(ours, x) == spell(theirs, x)
    assert ours(x).shape == (1, 1000)


@pytest.mark.parametrize("depth", [11])
def test_it_computes_what_torchvisions_does(depth):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"vgg{depth}")(num_classes=3)
    options = {**TRUE[depth], "hidden": [8, 8]}
    theirs.classifier = nn.Sequential(
        nn.Linear(512 * 49, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)
    )
    ours = build(Placement(where="none"), in_channels=3, num_classes=3, **options).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)), assign=True)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("order", "where", "expected"),
    [
        ("pre_act", "all", "cna cna p cna p p l"),
        ("post_act", "all", "can can p can p p l"),
        ("pre_act", "none", "ca ca p ca p p l"),
        ("pre_act", "last", "ca ca p cna p p l"),
        ("post_act", [1], "ca can p ca p p l"),
    ],
)
def test_where_the_norms_are(order, where, expected, spell, check_biases):
    model, x = build(Placement(order, where), convs=[2, 1], widths=[4, 6]), torch.randn(2, 1, 8, 8)
    assert spell(model, x) == expected.replace(" ", "")
    check_biases(model, x)


def test_an_8x8_image_has_maps_of_8_4_and_2():
    model, x, sides = build(convs=[3, 3, 3]), torch.randn(2, 1, 8, 8), []
    for layer in model.features:
        if not isinstance(layer, nn.MaxPool2d):
            sides.append(layer(x).shape[-1])
        x = layer(x)
    assert sides == [8] * 3 + [4] * 3 + [2] * 3
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 9


def test_dropout_is_behind_the_dense_layers_or_before_the_linear_one(spell):
    x = torch.randn(2, 1, 8, 8)
    small = {"convs": [1], "widths": [4], "norm": nn.Identity, "placement": Placement(where="none")}
    assert spell(build(**small, dropout=0.3), x) == "capp" + "dl"
    assert spell(build(**small, dropout=0.3, hidden=[5, 6]), x) == "capp" + "lad" * 2 + "l"
    assert spell(build(**small, hidden=[5], activation="none"), x) == "cpp" + "ll"


def test_weights_are_he_normal_and_scaled():
    conv = build(widths=[8, 64, 256], init_scale=3.0).features[-2].conv
    assert conv.weight.std().item() == pytest.approx(3 * (2 / (256 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convs": [2, 2]}, r"2 convs=\[2, 2\] but 3 widths=\[8, 16, 32\]; give one width per block"),
        ({"convs": [2, 0, 2]}, "convs must be one or more positive integers"),
        ({"widths": []}, "widths must be one or more positive integers"),
        ({"hidden": [0]}, "hidden must be"),
        ({"activation": "swish"}, "activation='swish' is unknown"),
        ({"init": "ones"}, "init='ones' is unknown"),
        ({"dropout": 2}, "dropout=2 must be"),
        ({"placement": Placement(where=[6])}, "this model has 6 stages: 0 to 5"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_an_image_too_small_to_be_halved_is_refused():
    with pytest.raises(UserError, match=r"at least 8x8 pixels, got 8x7: raise data.image_size"):
        build()(torch.randn(2, 1, 8, 7))
