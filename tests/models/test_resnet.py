"""Residual networks: parameter counts of the literature, torchvision's networks, and where the norms are."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from normzoo import UserError
from normzoo.models.blocks import Placement
from normzoo.models.resnet import BasicBlock, PadShortcut, ResNet


def build(depth, placement=None, norm=nn.BatchNorm2d, *, device="meta", **options):
    options = {"in_channels": 3, "num_classes": 10, **options}
    with torch.device(device):
        return ResNet(norm, placement or Placement(), depth=depth, **options)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7")])
def test_parameters_of_table_6_of_the_paper(depth, millions):
    decimals = len(millions.partition(".")[2])
    assert f"{count(build(depth)) / 1e6:.{decimals}f}" == millions


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (50, 25_557_032)])
def test_parameters_of_torchvision(depth, parameters):
    assert count(build(depth, num_classes=1000)) == parameters


@pytest.mark.parametrize("depth", [18, 50])
def test_it_is_torchvisions_network(depth):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    torch.manual_seed(0)
    ours = build(depth, device="cpu")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_the_number_of_layers_is_the_depth(depth, spell):
    letters = spell(build(depth), torch.empty(2, 3, 32, 32, device="meta"))
    assert letters.count("c") + letters.count("l") == depth


STEM = {"pre_act": "cna", "post_act": "can"}
BLOCK = {"pre_act": "cna cn a", "post_act": "can c an"}
PROJECTED = {"pre_act": "cna cn cn a", "post_act": "can c c an"}
BOTTLENECK = {"pre_act": "cna cna cn a", "post_act": "can can c an"}
PROJECTED_BOTTLENECK = {"pre_act": "cna cna cn cn a", "post_act": "can can c c an"}
WHERES = ["all", "none", "first", "last", "all_but_last", [1], [0, 2]]


def written(parts, placement):
    """The letters of the parts, one to a stage, without the n of those that are not normalized."""
    stages = [part if placement.at(stage, len(parts)) else part.replace("n", "") for stage, part in enumerate(parts)]
    return stages[0], "".join(stages[1:]).replace(" ", "")


@pytest.mark.parametrize("order", ["pre_act", "post_act"])
@pytest.mark.parametrize("where", WHERES, ids=str)
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_where_the_norms_are_at_depth_14(order, where, shortcut, spell, check_biases):
    placement = Placement(order, where)
    block, halving = BLOCK[order], (BLOCK if shortcut == "A" else PROJECTED)[order]
    stem, layers = written([STEM[order], block + block, halving + block, halving + block], placement)
    model, x = build(14, placement, shortcut=shortcut), torch.empty(2, 3, 16, 16, device="meta")
    assert spell(model, x) == stem + layers + "p" + "l"
    check_biases(model, x)


@pytest.mark.parametrize("order", ["pre_act", "post_act"])
@pytest.mark.parametrize("where", WHERES, ids=str)
@pytest.mark.parametrize("depth", [18, 50])
def test_where_the_norms_are_at_depth_18_and_50(depth, order, where, spell, check_biases):
    placement = Placement(order, where)
    if depth == 18:
        block, first = BLOCK[order], PROJECTED[order]
        parts = [STEM[order], block * 2, *[first + block] * 3]
    else:
        block, first = BOTTLENECK[order], PROJECTED_BOTTLENECK[order]
        parts = [STEM[order], *[first + block * (n - 1) for n in (3, 4, 6, 3)]]
    stem, layers = written(parts, placement)
    model, x = build(depth, placement), torch.empty(2, 3, 64, 64, device="meta")
    assert spell(model, x) == stem + "p" + layers + "p" + "l"
    check_biases(model, x)


@pytest.mark.parametrize("depth", [8, 18, 50])
def test_biases_where_the_norm_has_none(depth, check_biases, scale_only):
    x = torch.empty(2, 3, 32, 32, device="meta")
    for norm in (scale_only, nn.Identity, partial(nn.BatchNorm2d, affine=False)):
        model = build(depth, norm=norm)
        check_biases(model, x)
        assert all(module.bias is not None for module in model.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize("depth", [8, 18])
def test_a_norm_that_includes_the_activation(depth, norm_with_relu, spell):
    """The ReLU after the addition stays in pre_act, and is the norm's in post_act."""
    x = torch.empty(2, 3, 32, 32, device="meta")
    pre, post = (spell(build(depth, Placement(order), norm_with_relu), x) for order in ("pre_act", "post_act"))
    if depth == 8:
        assert pre == "cn" + "cncna" * 3 + "pl"
        assert post == "cn" + "cncn" * 3 + "pl"
    else:
        assert pre == "cnp" + "cncna" * 2 + "cncncnacncna" * 3 + "pl"
        assert post == "cnp" + "cncn" * 2 + "cnccncncn" * 3 + "pl"


@pytest.mark.parametrize("depth", [8, 18, 50])
def test_a_norm_that_includes_relu_equals_norm_and_relu_with_one_more_at_each_branch_end(depth, norm_with_relu):
    torch.manual_seed(0)
    active = build(depth, norm=norm_with_relu, device="cpu", shortcut="B" if depth == 8 else None)
    torch.manual_seed(0)
    plain = build(depth, device="cpu", shortcut="B" if depth == 8 else None)
    ends = ("conv2.norm", "shortcut.norm") if depth == 8 else ("bn2" if depth == 18 else "bn3", "downsample.1")
    for name, module in plain.named_modules():
        if name.endswith(ends):
            module.register_forward_hook(lambda _module, _inputs, output: output.relu())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(active(x), plain(x))


@pytest.mark.parametrize("depth", [8, 18, 50])
def test_no_activation_overwrites_what_a_norm_keeps_for_its_backward(depth):
    model = build(depth, norm=lambda channels: nn.Tanh(), device="cpu")
    model(torch.randn(1, 3, 16, 16)).sum().backward()


def test_pre_act_and_post_act_as_documented():
    x = torch.randn(4, 8, 6, 6)

    def bn(x):
        return nn.functional.batch_norm(x, None, None, training=True)

    block = BasicBlock(8, 8, 1, nn.BatchNorm2d, "pre_act", "A")
    conv1, conv2 = block.conv1.conv, block.conv2.conv
    torch.testing.assert_close(block(x), torch.relu(bn(conv2(torch.relu(bn(conv1(x))))) + x))
    block = BasicBlock(8, 8, 1, nn.BatchNorm2d, "post_act", "A")
    conv1, conv2 = block.conv1.conv, block.conv2.conv
    torch.testing.assert_close(block(x), bn(torch.relu(conv2(bn(torch.relu(conv1(x)))) + x)))


def test_torchvisions_block_in_post_act_as_documented():
    torch.manual_seed(0)
    model = build(18, Placement("post_act"), device="cpu")
    x = torch.randn(4, 64, 6, 6)

    def bn(x):
        return nn.functional.batch_norm(x, None, None, training=True)

    block = model.layer2[0]
    shortcut = block.downsample[0](x)
    expected = bn(torch.relu(block.conv2(bn(torch.relu(block.conv1(x)))) + shortcut))
    torch.testing.assert_close(model.layer2[0](x), expected)


@pytest.mark.parametrize("side", [7, 8])
def test_shortcut_a_takes_every_second_pixel_and_adds_zeros(side):
    x = torch.randn(2, 3, side, side)
    y = PadShortcut(2, 4)(x)
    assert y.shape == (2, 7, 4, 4)
    torch.testing.assert_close(y[:, :3], x[:, :, ::2, ::2])
    assert y[:, 3:].abs().sum() == 0


@pytest.mark.parametrize("depth", [8, 18, 50])
@pytest.mark.parametrize("side", [1, 9, 28])
def test_images_of_any_size_and_channels(depth, side):
    model = build(depth, in_channels=1, num_classes=7)
    assert model.eval()(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)


def test_width():
    assert build(8, width=4).fc.in_features == 16
    assert build(8).fc.in_features == build(8, width=16).fc.in_features == 64


@pytest.mark.parametrize("depth", [8, 18, 50])
def test_zero_init_residual_makes_each_block_its_shortcut(depth, scale_only):
    model = build(depth, zero_init_residual=True, device="cpu")
    x = torch.randn(
        2, model.layer1[-1].conv1[0].in_channels if depth == 8 else model.layer1[-1].conv1.in_channels, 8, 8
    )
    torch.testing.assert_close(model.layer1[-1](x), torch.relu(x))
    zeros = [name for name, p in model.named_parameters() if p.dim() == 1 and "weight" in name and not p.any()]
    assert len(zeros) == {8: 3, 18: 8, 50: 16}[depth]
    # Norms without a weight, and stages without a norm, start as ever.
    build(depth, norm=nn.Identity, zero_init_residual=True)
    build(depth, Placement(where="first"), zero_init_residual=True)


@pytest.mark.parametrize("depth", [8, 18])
def test_weights_are_he_normal(depth):
    model = build(depth, device="cpu")
    conv = model.layer3[0].get_submodule("conv1.conv" if depth == 8 else "conv1")
    fan = conv.in_channels if depth == 8 else conv.out_channels
    assert conv.weight.std().item() == pytest.approx((2 / (9 * fan)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 19}, r"depth=19 is neither 6n \+ 2 .* nor 18 nor 50"),
        ({"depth": 2}, "depth=2 is neither"),
        ({"depth": 0}, "depth must be a positive integer"),
        ({"depth": 8, "width": 0}, "width must be a positive integer"),
        ({"depth": 8, "shortcut": "C"}, "shortcut='C' is unknown; choose A or B"),
        ({"depth": 50, "width": 16}, "depth 50 is torchvision's, with width 64 and shortcut B"),
        ({"depth": 18, "shortcut": "A"}, "depth 18 is torchvision's"),
        ({"depth": 8, "in_channels": 0}, "in_channels must be"),
        ({"depth": 8, "zero_init_residual": True, "placement": Placement("post_act")}, "needs placement.order=pre_act"),
        ({"depth": 8, "placement": Placement(where=[4])}, "this model has 4 stages: 0 to 3"),
        ({"depth": 18, "placement": Placement(where=[5])}, "this model has 5 stages: 0 to 4"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)
