"""BN-Inception: its published size, the maps of the paper's figure, where norms are, the small one."""

import pytest
import torch
from torch import nn

from normzoo import UserError
from normzoo.models.blocks import Placement
from normzoo.models.inception import MODULES, Inception, InceptionModule

NOWHERE = Placement(where="none")


def build(placement=None, norm=nn.BatchNorm2d, *, device="cpu", **options):
    with torch.device(device):
        return Inception(norm, placement or Placement(), **{"in_channels": 1, "num_classes": 10, **options})


def full(placement=None):
    return build(placement, device="meta", in_channels=3, num_classes=1000)


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_parameters_of_the_published_network():
    """11,295,240 in Cadene's pretrained-models.pytorch and in imgclsmob, with a bias in each convolution as well."""
    bare, normed = full(NOWHERE), full()
    biases = sum(layer.bias.numel() for layer in bare.modules() if isinstance(layer, nn.Conv2d))
    assert biases == 10_016
    assert count(bare) == 11_275_208
    assert count(normed) == 11_285_224
    assert count(normed) + biases == 11_295_240


def test_the_maps_of_figure_5():
    x = torch.empty(1, 3, 224, 224, device="meta")
    shapes = {}
    for name, part in full().features.named_children():
        x = part(x)
        shapes[name.rpartition("_")[2] if "module" in name else name] = tuple(x.shape[1:])
    # The figure has 576 channels behind 4c and 4d, and so 1024 behind 4e, which its numbers of filters do not come to.
    assert shapes == {
        "conv1": (64, 112, 112), "pool1": (64, 56, 56), "conv2_reduce": (64, 56, 56), "conv2": (192, 56, 56),
        "pool2": (192, 28, 28), "3a": (256, 28, 28), "3b": (320, 28, 28), "3c": (576, 14, 14), "4a": (576, 14, 14),
        "4b": (576, 14, 14), "4c": (608, 14, 14), "4d": (608, 14, 14), "4e": (1056, 7, 7), "5a": (1024, 7, 7),
        "5b": (1024, 7, 7),
    }  # fmt: skip


def test_the_small_one_is_small():
    model = build(stem="small", modules=["3a", "3c", "4a", "4e", "5a"], width=0.25)
    assert count(model) < 400_000
    sides = []
    for shape in ((1, 28, 28), (1, 32, 32)):
        x = torch.randn(2, *shape)
        assert model(x).shape == (2, 10)
        sides.append([(x := part(x)).shape[-1] for part in model.features])
    assert sides == [[28, 14, 14, 7, 7, 4, 4], [32, 16, 16, 8, 8, 4, 4]]


def test_a_module_is_its_four_branches_side_by_side():
    module = InceptionModule(6, [4, 3, 5, 2, 7, 8], "avg", None, "pre_act", nn.ReLU)
    x = torch.randn(2, 6, 9, 9)
    b = module.branches
    parts = [
        torch.relu(b.conv1x1.conv(x)),
        torch.relu(b.conv3x3[1].conv(torch.relu(b.conv3x3[0].conv(x)))),
        torch.relu(b.double3x3[2].conv(torch.relu(b.double3x3[1].conv(torch.relu(b.double3x3[0].conv(x)))))),
        torch.relu(b.pool[1].conv(nn.functional.avg_pool2d(x, 3, 1, 1))),
    ]
    torch.testing.assert_close(module(x), torch.cat(parts, 1))
    assert module.out_channels == 4 + 5 + 7 + 8


def test_a_module_without_1x1_halves_the_map_and_passes_the_pooled_one_on():
    module = InceptionModule(6, [0, 3, 5, 2, 7, 0], "max", None, "pre_act", nn.ReLU)
    for side in (8, 9):
        x = torch.randn(2, 6, side, side)
        y = module(x)
        assert y.shape == (2, 5 + 7 + 6, -(-side // 2), -(-side // 2))
        torch.testing.assert_close(y[:, -6:], nn.functional.max_pool2d(x, 3, 2, 1))


@pytest.mark.parametrize(
    ("order", "where", "stem", "module"),
    [
        ("pre_act", "all", "cnap", "cna cnacna cnacnacna pcna"),
        ("post_act", "all", "canp", "can cancan cancancan pcan"),
        ("pre_act", "first", "cnap", "ca caca cacaca pca"),
        ("pre_act", "last", "cap", "cna cnacna cnacnacna pcna"),
        ("post_act", "none", "cap", "ca caca cacaca pca"),
    ],
)
def test_where_the_norms_are(order, where, stem, module, spell, check_biases):
    model = build(Placement(order, where), stem="small", modules=["3a"], width=0.125)
    x = torch.randn(4, 1, 8, 8)
    assert spell(model, x) == stem + module.replace(" ", "") + "l"
    check_biases(model, x)


def test_the_original_networks_response_norms_and_dropout():
    model = build(NOWHERE, local_response_norm=True, dropout=0.4, width=0.125, modules=["3a"])
    kinds = [type(layer).__name__ for part in ("pool1", "pool2") for layer in model.features.get_submodule(part)]
    assert kinds == ["MaxPool2d", "LocalResponseNorm", "LocalResponseNorm", "MaxPool2d"]
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.4]
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    small = build(stem="small", local_response_norm=True, width=0.125, modules=["3a"])
    assert sum(isinstance(layer, nn.LocalResponseNorm) for layer in small.modules()) == 1
    assert not any(isinstance(layer, (nn.LocalResponseNorm, nn.Dropout)) for layer in build().modules())


def test_with_sigmoids_there_is_no_other_activation():
    model = build(stem="small", modules=["3a", "3c"], width=0.125, activation="sigmoid")
    kinds = {type(layer) for layer in model.modules() if isinstance(layer, (nn.ReLU, nn.Sigmoid))}
    assert kinds == {nn.Sigmoid}


def test_channels_are_multiples_of_eight():
    for width in (0.1, 0.25, 0.33, 1.0):
        model = build(device="meta", width=width)
        assert all(layer.out_channels % 8 == 0 for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert set(MODULES) == {part.rpartition("_")[2] for part, _ in full().features.named_children() if "mod" in part}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "tiny"}, "stem='tiny' is unknown; choose one of imagenet, small"),
        ({"modules": []}, r"modules=\[\] must be a list of one or more of 3a, 3b"),
        ({"modules": ["3a", "6a"]}, r"modules=\['3a', '6a'\] must be"),
        ({"modules": "3a"}, "modules='3a' must be"),
        ({"width": 0}, "width=0 must be a positive number"),
        ({"width": "half"}, "width='half' must be"),
        ({"activation": "swish"}, "inception: activation='swish' is unknown"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"placement": Placement(where=[11])}, "this model has 11 stages: 0 to 10"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)
