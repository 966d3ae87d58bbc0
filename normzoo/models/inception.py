"""BN-Inception, the network that introduced batch normalization, in full or as a few narrow modules."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.models.blocks import EVERYWHERE, ConvNormAct, Norm, Placement, check_positive
from normzoo.models.options import dropout_layers, initialize, named_activation

# Per module: 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3, pooling, its projection. A module without 1x1 and
# projection has stride 2.
MODULES = {
    "3a": (64, 64, 64, 64, 96, "avg", 32),
    "3b": (64, 64, 96, 64, 96, "avg", 64),
    "3c": (0, 128, 160, 64, 96, "max", 0),
    "4a": (224, 64, 96, 96, 128, "avg", 128),
    "4b": (192, 96, 128, 96, 128, "avg", 128),
    "4c": (160, 128, 160, 128, 160, "avg", 128),
    "4d": (96, 128, 192, 160, 192, "avg", 128),
    "4e": (0, 128, 192, 192, 256, "max", 0),
    "5a": (352, 192, 320, 160, 224, "avg", 128),
    "5b": (352, 192, 320, 192, 224, "max", 128),
}
STEMS = ("imagenet", "small")


class Inception(nn.Module):
    """A convolutional stem, inception modules named as in the paper, global average pooling, and a linear layer.

    The stem `imagenet` is a 7x7 convolution of stride 2, a 1x1 and a 3x3 one, with a 3x3 max pooling of stride 2 after
    the first and the last; `small` is a 3x3 convolution and one such pooling, for images of 28 or 32 pixels. `imagenet`
    and all ten modules make the network of the paper's figure 5.

    Stages: 0 is the stem, stage i is the i-th module, each with all its convolutions.

    Parameters of the whole network with three input channels and a thousand classes: 11,275,208 without norms,
    11,285,224 with BatchNorm. Public implementations count 11,295,240, because their convolutions keep the 10,016
    biases that BatchNorm cancels. Like them, and unlike the paper: modules 4c and 4d have the filters of the figure,
    whose sum is 608 channels and not 576; the first convolution is an ordinary one instead of a depthwise one with
    multiplier 8 and a 1x1 one.

    Without norms, with `local_response_norm` and dropout, it stands in for the original network, which had 5x5
    convolutions instead of two 3x3 ones (Szegedy et al. 2014, arXiv:1409.4842, table 1).

    Init: He normal (He et al. 2015, arXiv:1502.01852, section 2.2), biases zero, unless `init` says otherwise.

    Shape: `(N, in_channels, H, W) -> (N, num_classes)`, for images of any size.

    Source: Ioffe & Szegedy 2015, Batch normalization: accelerating deep network training by reducing internal covariate
    shift, arXiv:1502.03167, appendix, figure 5.

    Args:
        norm: Builds the norm for a number of channels.
        placement: Which stages are normalized, and on which side of the activation.
        stem: `imagenet` or `small`.
        modules: The modules in the order they run: `3a` to `5b`.
        width: Factor on all numbers of channels, which are rounded to multiples of eight, at least eight.
        activation: `relu`, `leaky_relu`, `gelu`, `tanh`, `sigmoid` (BN-x5-Sigmoid in the paper) or `none`.
        local_response_norm: Whether to put torch's `LocalResponseNorm(5)` after the first pooling, and before the
            second if there is one, as in the original network.
        init: `default` (He normal), `he_normal`, `xavier_uniform` or `xavier_normal`.
        init_scale: Factor on every initial weight.
        dropout: Dropout probability before the linear layer; 0.4 in the original network.

    Raises:
        UserError: If a module, the stem or another option is unknown or out of range.
    """

    def __init__(
        self,
        norm: Norm,
        placement: Placement = EVERYWHERE,
        *,
        in_channels: int,
        num_classes: int,
        stem: str = "imagenet",
        modules: Sequence[str] = tuple(MODULES),
        width: float = 1.0,
        activation: str = "relu",
        local_response_norm: bool = False,
        init: str = "default",
        init_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("inception", in_channels=in_channels, num_classes=num_classes)
        if stem not in STEMS:
            raise UserError(f"inception: stem={stem!r} is unknown; choose one of {', '.join(STEMS)}")
        if isinstance(modules, str) or not modules or not set(modules) <= set(MODULES):
            raise UserError(f"inception: modules={modules!r} must be a list of one or more of {', '.join(MODULES)}")
        if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < float("inf"):
            raise UserError(f"inception: width={width!r} must be a positive number")

        def wide(channels: int) -> int:
            return max(8, 8 * round(channels * width / 8)) if channels else 0

        act = named_activation("inception", activation)
        order, stages = placement.order, 1 + len(modules)
        at = [norm if placement.at(stage, stages) else None for stage in range(stages)]

        parts: list[tuple[str, nn.Module]] = []
        lrn = [nn.LocalResponseNorm(5)] if local_response_norm else []
        if stem == "imagenet":
            channels = wide(192)
            parts += [
                ("conv1", ConvNormAct(in_channels, wide(64), at[0], order, kernel_size=7, stride=2, activation=act)),
                ("pool1", nn.Sequential(nn.MaxPool2d(3, 2, padding=1), *lrn)),
                ("conv2_reduce", ConvNormAct(wide(64), wide(64), at[0], order, kernel_size=1, activation=act)),
                ("conv2", ConvNormAct(wide(64), channels, at[0], order, activation=act)),
                ("pool2", nn.Sequential(*lrn, nn.MaxPool2d(3, 2, padding=1))),
            ]
        else:
            channels = wide(64)
            parts += [
                ("conv1", ConvNormAct(in_channels, channels, at[0], order, activation=act)),
                ("pool1", nn.Sequential(nn.MaxPool2d(3, 2, padding=1), *lrn)),
            ]
        for stage, name in enumerate(modules, start=1):
            one, three_in, three, double_in, double, pool, projection = MODULES[name]
            sizes = [wide(size) for size in (one, three_in, three, double_in, double, projection)]
            module = InceptionModule(channels, sizes, pool, at[stage], order, act)
            parts.append((f"module{stage}_{name}", module))
            channels = module.out_channels
        self.features = nn.Sequential(OrderedDict(parts))
        self.dropout = nn.Sequential(*dropout_layers("inception", dropout))
        self.classifier = nn.Linear(channels, num_classes)
        initialize("inception", self, init, init_scale, own="he_normal")

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        x = self.features(x)
        x = x.mean(dim=(2, 3))
        return self.classifier(self.dropout(x))


class InceptionModule(nn.Module):
    """Four parallel branches with concatenated channels: 1x1, 3x3, two of 3x3, and a pooling.

    Without 1x1 and projection the module has stride 2, and its pooling has no projection.

    Shape: `(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)`, rounded up.

    Args:
        sizes: The channels of 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3, and of the projection.
        pool: `avg` or `max`, over 3x3.
    """

    def __init__(
        self,
        in_channels: int,
        sizes: Sequence[int],
        pool: str,
        norm: Norm | None,
        order: str,
        activation: Callable[[], nn.Module] | None,
    ) -> None:
        super().__init__()
        one, three_in, three, double_in, double, projection = sizes
        stride = 1 if one else 2

        def conv(channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> ConvNormAct:
            return ConvNormAct(
                channels, out_channels, norm, order, kernel_size=kernel_size, stride=stride, activation=activation
            )

        branches: dict[str, nn.Module] = {}
        if one:
            branches["conv1x1"] = conv(in_channels, one, 1)
        branches["conv3x3"] = nn.Sequential(conv(in_channels, three_in, 1), conv(three_in, three, 3, stride))
        branches["double3x3"] = nn.Sequential(
            conv(in_channels, double_in, 1), conv(double_in, double, 3), conv(double, double, 3, stride)
        )
        pooling = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[pool](3, stride, padding=1)
        branches["pool"] = nn.Sequential(pooling, *([conv(in_channels, projection, 1)] if projection else []))
        self.branches = nn.ModuleDict(branches)
        self.out_channels = one + three + double + (projection or in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches."""
        return torch.cat([branch(x) for branch in self.branches.values()], dim=1)
