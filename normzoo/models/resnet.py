"""Residual networks: those of He et al. for CIFAR, and torchvision's for ImageNet."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.errors import UserError
from normzoo.models._torchvision import torchvision_resnet
from normzoo.models.blocks import EVERYWHERE, ConvNormAct, Norm, Placement, check_positive, norm_and_act

TORCHVISION_DEPTHS = (18, 50)


class ResNet(nn.Sequential):
    """A residual network for small images (depth 8, 14, 20, 32, ...) or for ImageNet (depth 18 or 50).

    Depth 6n + 2: a 3x3 convolution, three stages of n basic blocks with 16, 32 and 64 channels, the second and third
    starting with stride 2, global average pooling, a linear layer (He et al. 2015, arXiv:1512.03385, section 4.2).
    Depth 18 and 50: torchvision's `resnet18` and `resnet50` with the same parameter names, so that `load_state_dict`
    takes torchvision's weights when every stage is normalized in `pre_act`. Depth 50 is always torchvision's, although
    50 = 6n + 2.

    Stages: 0 is the stem (the first convolution), 1 to 3 (to 4 at depth 18 and 50) are `layer1` to `layer3`
    (`layer4`), each with all its blocks and its projection. So `first` normalizes only the stem.

    Order: `pre_act` is the ResNet of the paper, `relu(norm(conv(relu(norm(conv(x))))) + x)`. In `post_act` each norm
    moves after the activation that followed it; the norms at the end of a branch and in a projection, which share the
    ReLU after the addition, become one norm after it: `norm(relu(conv(norm(relu(conv(x)))) + x))`. A norm that includes
    an activation replaces the ReLU next to it. In `pre_act` the ReLU after an addition stays, as it is not next to a
    norm.

    Parameters (paper, table 6): depth 20 0.27M, 32 0.46M, 44 0.66M, 56 0.85M, 110 1.7M, with three input channels, ten
    classes and shortcut A. torchvision: depth 18 11,689,512, depth 50 25,557,032, with a thousand classes.

    Init: He normal, from the fan-in at depth 6n + 2, and from the fan-out, as in torchvision, at 18 and 50.

    Shape: `(N, in_channels, H, W) -> (N, num_classes)`, for images of any size.

    Args:
        norm: Builds the norm for a number of channels.
        placement: Which stages are normalized, and on which side of the ReLU.
        depth: 6n + 2, or 18 or 50.
        width: Channels of the stem and of stage 1; None for 16, or for 64 at depth 18 and 50, where it is fixed.
        shortcut: How to halve the map: `A` takes every second pixel and adds channels of zeros, `B` is a 1x1
            convolution with stride 2; None for A, as in the paper, or for B at depth 18 and 50, where it is fixed.
        zero_init_residual: Whether the norm at the end of each branch starts with a weight of zero, so that the block
            starts as its shortcut (Goyal et al. 2017, arXiv:1706.02677, section 5.1); no effect on a branch that does
            not end in a norm with a weight. Only in `pre_act`.

    Raises:
        UserError: If the depth, width or shortcut is not valid, or `zero_init_residual` is set in `post_act`.
    """

    def __init__(
        self,
        norm: Norm,
        placement: Placement = EVERYWHERE,
        *,
        in_channels: int,
        num_classes: int,
        depth: int = 20,
        width: int | None = None,
        shortcut: str | None = None,
        zero_init_residual: bool = False,
    ) -> None:
        check_positive("resnet", in_channels=in_channels, num_classes=num_classes, depth=depth)
        if width is not None:
            check_positive("resnet", width=width)
        if shortcut not in (None, "A", "B"):
            raise UserError(f"resnet: shortcut={shortcut!r} is unknown; choose A or B")
        if zero_init_residual and placement.order != "pre_act":
            raise UserError(
                "resnet: zero_init_residual needs placement.order=pre_act; in post_act no branch ends in a norm"
            )
        if depth in TORCHVISION_DEPTHS:
            if width not in (None, 64) or shortcut == "A":
                raise UserError(
                    f"resnet: depth {depth} is torchvision's, with width 64 and shortcut B; omit width and shortcut, "
                    "or choose a depth of 6n + 2, such as 20"
                )
            parts, branch_ends = torchvision_resnet(depth, norm, placement, in_channels, num_classes)
        elif depth >= 8 and depth % 6 == 2:
            blocks = (depth - 2) // 6
            parts, branch_ends = _cifar(blocks, norm, placement, in_channels, num_classes, width or 16, shortcut or "A")
        else:
            raise UserError(f"resnet: depth={depth} is neither 6n + 2 (8, 14, 20, 26, 32, ...) nor 18 nor 50")
        super().__init__(parts)

        for end in branch_ends if zero_init_residual else []:
            if isinstance(weight := getattr(end, "weight", None), nn.Parameter):
                nn.init.zeros_(weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; at stride 2 the first convolution halves the map.

    pre_act: `relu(norm(conv2(relu(norm(conv1(x))))) + shortcut(x))`, with a norm in shortcut B too
    post_act: `norm(relu(conv2(norm(relu(conv1(x)))) + shortcut(x)))`

    Shape: `(N, in_channels, H, W) -> (N, channels, H / stride, W / stride)`, rounded up.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, norm: Norm | None, order: str, shortcut: str
    ) -> None:
        super().__init__()
        before_sum, after_sum = (norm, None) if order == "pre_act" else (None, norm)
        self.conv1 = ConvNormAct(in_channels, channels, norm, order, stride=stride)
        self.conv2 = ConvNormAct(channels, channels, before_sum, activation=None)
        self.shortcut: nn.Module
        if in_channels == channels and stride == 1:
            self.shortcut = nn.Sequential()
        elif shortcut == "A":
            self.shortcut = PadShortcut(stride, channels - in_channels)
        else:
            self.shortcut = ConvNormAct(
                in_channels, channels, before_sum, kernel_size=1, stride=stride, activation=None
            )
        self.after = nn.Sequential(OrderedDict(norm_and_act(channels, after_sum, order, nn.ReLU)))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        branch = self.conv2(self.conv1(x))
        return self.after(branch + self.shortcut(x))


class PadShortcut(nn.Module):
    """Shortcut A: every `stride`-th pixel, and channels of zeros after those of the input; no parameters.

    Shape: `(N, C, H, W) -> (N, C + extra_channels, H / stride, W / stride)`, rounded up.
    """

    def __init__(self, stride: int, extra_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = extra_channels

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra_channels))

    def extra_repr(self) -> str:
        """Show stride and padding."""
        return f"stride={self.stride}, extra_channels={self.extra_channels}"


def _cifar(
    blocks: int, norm: Norm, placement: Placement, in_channels: int, num_classes: int, width: int, shortcut: str
) -> tuple[OrderedDict[str, nn.Module], list[nn.Module]]:
    """Return the parts of a network of 6 * blocks + 2 layers, and the norms at the ends of branches."""
    order = placement.order
    at = [norm if placement.at(stage, 4) else None for stage in range(4)]
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=ConvNormAct(in_channels, width, at[0], order))
    branch_ends: list[nn.Module] = []
    channels = width
    for stage in (1, 2, 3):
        layer = nn.Sequential()
        for block in range(blocks):
            out_channels = width * 2 ** (stage - 1)
            stride = 2 if stage > 1 and block == 0 else 1
            layer.append(BasicBlock(channels, out_channels, stride, at[stage], order, shortcut))
            channels = out_channels
        parts[f"layer{stage}"] = layer
        if order == "pre_act" and at[stage]:
            branch_ends += [block.get_submodule("conv2.norm") for block in layer]
    parts["avgpool"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    parts["fc"] = nn.Linear(channels, num_classes)

    for module in nn.ModuleDict(parts).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return parts, branch_ends
