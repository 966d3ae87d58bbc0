"""A convolution or dense layer with its norm and activation: the order, and when it has a bias."""

from functools import partial

import pytest
import torch
from torch import nn

from normzoo import UserError
from normzoo.models.blocks import ConvNormAct, DenseNormAct, check_positive


def children(block):
    return [name for name, _ in block.named_children()]


def test_pre_act_is_conv_norm_act():
    block = ConvNormAct(3, 8, nn.BatchNorm2d, "pre_act")
    x = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(block(x), torch.relu(nn.functional.batch_norm(block.conv(x), None, None, training=True)))
    assert children(block) == ["conv", "norm", "act"]


def test_post_act_is_conv_act_norm():
    block = ConvNormAct(3, 8, nn.BatchNorm2d, "post_act")
    x = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(block(x), nn.functional.batch_norm(torch.relu(block.conv(x)), None, None, training=True))
    assert children(block) == ["conv", "act", "norm"]


@pytest.mark.parametrize("order", ["pre_act", "post_act"])
def test_what_is_absent_is_left_out(order):
    assert children(ConvNormAct(3, 8, None, order)) == ["conv", "act"]
    assert children(ConvNormAct(3, 8, nn.BatchNorm2d, order, activation=None)) == ["conv", "norm"]
    assert children(ConvNormAct(3, 8, None, order, activation=None)) == ["conv"]
    assert children(DenseNormAct(3, 8, None, order)) == ["linear", "act"]


@pytest.mark.parametrize("order", ["pre_act", "post_act"])
def test_a_norm_that_includes_an_activation_stands_for_both(order, norm_with_relu):
    block = ConvNormAct(3, 8, norm_with_relu, order)
    assert children(block) == ["conv", "norm"]
    assert block.conv.bias is None


def test_the_bias_goes_only_before_a_norm_with_a_bias(scale_only):
    cases = [
        (nn.BatchNorm2d, "pre_act", nn.ReLU, False),
        (nn.BatchNorm2d, "post_act", nn.ReLU, True),
        (nn.BatchNorm2d, "post_act", None, False),
        (partial(nn.BatchNorm2d, affine=False), "pre_act", nn.ReLU, True),
        (partial(nn.GroupNorm, 2), "pre_act", nn.ReLU, False),
        (scale_only, "pre_act", nn.ReLU, True),
        (nn.Identity, "pre_act", nn.ReLU, True),
        (None, "pre_act", nn.ReLU, True),
    ]
    for norm, order, activation, has_bias in cases:
        conv = ConvNormAct(3, 8, norm, order, activation=activation).conv
        assert (conv.bias is not None) == has_bias, (norm, order, activation)
        linear = DenseNormAct(3, 8, norm, order, activation=activation).linear
        assert (linear.bias is not None) == has_bias, (norm, order, activation)


def test_an_activation_with_a_bias_is_no_norm():
    class Shifted(nn.ReLU):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(8))

    assert ConvNormAct(3, 8, nn.BatchNorm2d, "post_act", activation=Shifted).conv.bias is not None


@pytest.mark.parametrize("block", [ConvNormAct, DenseNormAct])
def test_a_block_without_a_bias_saves_none(block):
    assert not [key for key in block(3, 8, nn.BatchNorm1d).state_dict() if key in ("conv.bias", "linear.bias")]


@pytest.mark.parametrize("block", [ConvNormAct, DenseNormAct])
@pytest.mark.parametrize("order", ["pre_act", "post_act"])
def test_the_same_seed_draws_the_same_weights_with_any_norm(block, order):
    drawn = []
    for norm in (nn.BatchNorm2d, None):
        torch.manual_seed(0)
        drawn.append([block(3, 8, norm, order)[0].weight for _ in range(2)])
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)


@pytest.mark.parametrize(("kernel_size", "stride", "side"), [(3, 1, 9), (5, 1, 9), (1, 1, 9), (3, 2, 5)])
def test_the_map_keeps_its_size_at_stride_1(kernel_size, stride, side):
    block = ConvNormAct(3, 8, None, kernel_size=kernel_size, stride=stride)
    assert block(torch.randn(2, 3, 9, 9)).shape == (2, 8, side, side)
    assert ConvNormAct(3, 8, None, kernel_size=3, padding=0)(torch.randn(2, 3, 9, 9)).shape == (2, 8, 7, 7)


@pytest.mark.parametrize("block", [ConvNormAct, DenseNormAct])
def test_an_unknown_order_is_refused(block):
    with pytest.raises(UserError, match="'after' is unknown; choose one of pre_act, post_act"):
        block(3, 8, nn.BatchNorm2d, "after")


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "3", None, [], [8, 0], [8, "16"]])
def test_sizes_that_are_not_positive_integers_are_refused(size):
    with pytest.raises(UserError, match="some_model: width must be"):
        check_positive("some_model", depth=3, width=size)
