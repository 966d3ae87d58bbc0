"""torchvision's ResNets with a norm per stage, in either order: their `norm_layer` knows neither stage nor order."""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from normzoo.models.blocks import Norm, Placement, begins_with_bias, norm_and_act


def torchvision_resnet(
    depth: int, norm: Norm, placement: Placement, in_channels: int, num_classes: int
) -> tuple[OrderedDict[str, nn.Module], list[nn.Module]]:
    """The parts of torchvision's network in the order they run, and the norms at the ends of branches.

    The network is built with empty norms, then each stage gets its own; a convolution that no norm with a bias
    follows gets a bias, of zeros.
    """
    from torchvision.models import resnet18, resnet50

    network = {18: resnet18, 50: resnet50}[depth](num_classes=num_classes, norm_layer=_nothing)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    # A norm may keep its output for the backward pass, which an activation in place would overwrite.
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False

    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    at = [norm if placement.at(stage, 5) else None for stage in range(5)]

    follow = norm_and_act(64, at[0], placement.order, nn.ReLU)
    _set_bias(network.conv1, follow)
    torchvision_names = {"norm": "bn1", "act": "relu"}
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv1=network.conv1)
    parts.update({torchvision_names[name]: module for name, module in follow.items()})
    parts["maxpool"] = network.maxpool
    branch_ends: list[nn.Module] = []
    for stage, layer in enumerate(layers, start=1):
        for i in range(len(layer)):
            branch_ends += _fill(layer, i, at[stage], placement.order)
        parts[f"layer{stage}"] = layer
    parts["avgpool"] = network.avgpool
    parts["flatten"] = nn.Flatten()
    parts["fc"] = network.fc
    return parts, branch_ends


def _nothing(channels: int) -> nn.Module:
    # An empty Sequential hands its input on; nn.Identity could be taken for a norm, for there is one of that name.
    return nn.Sequential()


def _fill(layer: nn.Sequential, index: int, norm: Norm | None, order: str) -> list[nn.Module]:
    """Put norms into a block of torchvision's that has none; returns the norm at the end of its branch, if any.

    The block runs conv1, bn1, relu, conv2, bn2 (relu, conv3, bn3), adds the shortcut, and ends in the same relu. Where
    another order is wanted, or that relu must go because the norm includes an activation, `bn1` holds all that follows
    conv1, the relu is emptied, and what follows the addition is put behind the block.
    """
    block = layer[index]
    numbers = [number for number in (1, 2, 3) if hasattr(block, f"conv{number}")]
    before_sum, after_sum = (norm, None) if order == "pre_act" else (None, norm)
    rewired = False
    for number in numbers[:-1]:
        conv = getattr(block, f"conv{number}")
        follow = norm_and_act(conv.out_channels, norm, order, nn.ReLU)
        _set_bias(conv, follow)
        if norm is not None and list(follow) != ["norm", "act"]:
            rewired = True
            setattr(block, f"bn{number}", nn.Sequential(OrderedDict(follow)))
        elif norm is not None:
            setattr(block, f"bn{number}", follow["norm"])

    last = getattr(block, f"conv{numbers[-1]}")
    end = norm_and_act(last.out_channels, before_sum, order, None)
    _set_bias(last, end)
    setattr(block, f"bn{numbers[-1]}", end.get("norm", nn.Sequential()))
    if isinstance(block.downsample, nn.Sequential):
        conv, _ = block.downsample
        projected = norm_and_act(last.out_channels, before_sum, order, None)
        _set_bias(conv, projected)
        block.downsample[1] = projected.get("norm", nn.Sequential())

    if rewired:
        block.relu = nn.Sequential()
        after = norm_and_act(last.out_channels, after_sum, order, nn.ReLU)
        layer[index] = nn.Sequential(OrderedDict(block=block, **after))
    return list(end.values())


def _set_bias(conv: Any, follow: dict[str, nn.Module]) -> None:
    if not begins_with_bias(follow):
        conv.bias = nn.Parameter(torch.zeros(conv.out_channels))
