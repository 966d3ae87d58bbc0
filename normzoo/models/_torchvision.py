"""torchvision's ResNets with a norm per stage, in either order, which their `norm_layer` does not allow."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.models.blocks import Norm, Placement, begins_with_bias, norm_and_act


def torchvision_resnet(
    depth: int, norm: Norm, placement: Placement, in_channels: int, num_classes: int
) -> tuple[OrderedDict[str, nn.Module], list[nn.Module]]:
    """Return the parts of torchvision's network in the order they run, and the norms at the ends of branches.

    torchvision builds the network and draws its weights; then each stage gets its norms, and each convolution that is
    not followed by a norm with a bias gets a zero bias. Parameters keep torchvision's names.
    """
    from torchvision.models import resnet18, resnet50

    network = {18: resnet18, 50: resnet50}[depth](num_classes=num_classes, norm_layer=_nothing)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    at = [norm if placement.at(stage, 5) else None for stage in range(5)]

    follow = norm_and_act(64, at[0], placement.order, nn.ReLU)
    _set_bias(network.conv1, follow)
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv1=network.conv1)
    parts.update({{"norm": "bn1", "act": "relu"}[name]: module for name, module in follow.items()})
    parts["maxpool"] = network.maxpool
    branch_ends: list[nn.Module] = []
    for stage, layer in enumerate([network.layer1, network.layer2, network.layer3, network.layer4], start=1):
        blocks = [TorchvisionBlock(block, at[stage], placement.order) for block in layer]
        parts[f"layer{stage}"] = nn.Sequential(*blocks)
        if placement.order == "pre_act" and at[stage]:
            branch_ends += [block.get_submodule(block.branch[-1]) for block in blocks]
    parts["avgpool"] = network.avgpool
    parts["flatten"] = nn.Flatten()
    parts["fc"] = network.fc
    return parts, branch_ends


class TorchvisionBlock(nn.Module):
    """One of torchvision's residual blocks, with norms in either order; its layers keep their names.

    pre_act: `relu(bn2(conv2(relu(bn1(conv1(x))))) + downsample(x))`; a bottleneck has a third convolution
    post_act: `bn(relu(conv2(bn1(relu(conv1(x)))) + downsample(x)))`

    torchvision's own block works in place on the outputs of norms, so a norm that saves its output for the backward
    could not be trained in it.

    Shape: `(N, in_channels, H, W) -> (N, channels, H / stride, W / stride)`, rounded up.
    """

    def __init__(self, block: nn.Module, norm: Norm | None, order: str) -> None:
        super().__init__()
        before_sum, after_sum = (norm, None) if order == "pre_act" else (None, norm)
        convs: list[Any] = [layer for layer in block.children() if isinstance(layer, nn.Conv2d)]
        channels = convs[-1].out_channels
        for number, conv in enumerate(convs, start=1):
            inside = number < len(convs)
            follow = norm_and_act(conv.out_channels, norm if inside else before_sum, order, nn.ReLU if inside else None)
            _set_bias(conv, follow)
            self.add_module(f"conv{number}", conv)
            for name, module in follow.items():
                self.add_module({"norm": f"bn{number}", "act": f"relu{number}"}[name], module)
        self.branch = list(self._modules)
        """Names of the branch's layers, in the order they run."""

        self.downsample = nn.Sequential()
        if isinstance(block.downsample, nn.Sequential):
            conv, _ = block.downsample
            follow = norm_and_act(channels, before_sum, order, None)
            _set_bias(conv, follow)
            self.downsample = nn.Sequential(conv, *follow.values())

        follow = norm_and_act(channels, after_sum, order, nn.ReLU)
        self.after = [{"norm": "bn", "act": "relu"}[name] for name in follow]
        """Names of the layers after the sum."""
        for name, module in zip(self.after, follow.values(), strict=True):
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        branch = x
        for name in self.branch:
            branch = self.get_submodule(name)(branch)
        x = branch + self.downsample(x)
        for name in self.after:
            x = self.get_submodule(name)(x)
        return x


def _nothing(channels: int) -> nn.Module:
    return nn.Identity()


def _set_bias(conv: Any, follow: dict[str, nn.Module]) -> None:
    if not begins_with_bias(follow):
        conv.bias = nn.Parameter(torch.zeros(conv.out_channels))
