"""VGG networks: blocks of plain 3x3 convolutions, each followed by a max pooling."""

from collections.abc import Sequence

from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.models.blocks import EVERYWHERE, ConvNormAct, Norm, Placement, check_positive
from normzoo.models.options import dropout_layers, initialize, named_activation

HEAD_SIDE = 7  # side of the dense layers' input map; images of 224 pixels end with it


class VGG(nn.Module):
    """Blocks of 3x3 convolutions of one width, a 2x2 max pooling after each block, and dense layers.

    Without `hidden` the head is global average pooling and a linear layer, as is usual on small images. With it, the
    last map is average-pooled (or repeated) to 7x7 and read by dense layers with activation and dropout, as in the
    paper.

    With `convs=[1, 1, 2, 2, 2]` and `widths=[64, 128, 256, 512, 512]` it is configuration A of the paper (VGG-11), with
    `convs=[2, 2, 3, 3, 3]` D (VGG-16). An image of 8x8 in three blocks has maps of 8, 4 and 2.

    Stages: stage i is the i-th convolution, with norm and activation; there are `sum(convs)`. The dense layers are not
    normalized.

    Parameters with three input channels and a thousand classes, without norms: A 132,863,336, D 138,357,544.

    Init: He normal (He et al. 2015, arXiv:1502.01852, section 2.2), biases zero, unless `init` says otherwise; the
    paper starts deep networks from a trained shallow one.

    Shape: `(N, in_channels, H, W) -> (N, num_classes)`; H and W are at least 2 to the number of blocks.

    Source: Simonyan & Zisserman 2014, Very deep convolutional networks for large-scale image recognition,
    arXiv:1409.1556, table 1.

    Args:
        norm: Builds the norm for a number of channels.
        placement: Which convolutions are normalized, and on which side of the activation.
        convs: Number of convolutions in each block.
        widths: Channels of each block.
        hidden: Sizes of the dense layers before the output; 4096 twice in the paper.
        activation: `relu`, `leaky_relu`, `gelu`, `tanh`, `sigmoid` or `none`.
        init: `default` (He normal), `he_normal`, `xavier_uniform` or `xavier_normal`.
        init_scale: Factor on every initial weight.
        dropout: Dropout probability after each dense layer, or before the linear layer if there is none; 0.5 in the
            paper.

    Raises:
        UserError: If convs and widths differ in number, a size is not a positive integer, or another option is unknown
            or out of range; in `forward`, if the image is too small for the poolings.
    """

    def __init__(
        self,
        norm: Norm,
        placement: Placement = EVERYWHERE,
        *,
        in_channels: int,
        num_classes: int,
        convs: Sequence[int] = (2, 2, 2),
        widths: Sequence[int] = (8, 16, 32),
        hidden: Sequence[int] = (),
        activation: str = "relu",
        init: str = "default",
        init_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("vgg", in_channels=in_channels, num_classes=num_classes, convs=convs, widths=widths)
        if len(hidden):
            check_positive("vgg", hidden=hidden)
        if len(convs) != len(widths):
            raise UserError(
                f"vgg: {len(convs)} convs={list(convs)} but {len(widths)} widths={list(widths)}; "
                "give one width per block"
            )
        act = named_activation("vgg", activation)
        self.least_side = 2 ** len(convs)

        layers: list[nn.Module] = []
        channels, stage = in_channels, 0
        for depth, width in zip(convs, widths, strict=True):
            for _ in range(depth):
                here = norm if placement.at(stage, sum(convs)) else None
                layers.append(ConvNormAct(channels, width, here, placement.order, activation=act))
                channels, stage = width, stage + 1
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

        side = HEAD_SIDE if len(hidden) else 1
        self.pool = nn.AdaptiveAvgPool2d(side)
        head: list[nn.Module] = []
        features = channels * side * side
        for size in hidden:
            head += [nn.Linear(features, size), *([act()] if act else []), *dropout_layers("vgg", dropout)]
            features = size
        if not len(hidden):
            head += dropout_layers("vgg", dropout)
        self.classifier = nn.Sequential(*head, nn.Linear(features, num_classes))
        initialize("vgg", self, init, init_scale, own="he_normal")

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        height, width = x.shape[2:]
        if min(height, width) < self.least_side:
            raise UserError(
                f"vgg with these poolings needs images of at least {self.least_side}x{self.least_side} pixels, got "
                f"{height}x{width}: raise data.image_size, or use fewer blocks in model.convs and model.widths"
            )
        x = self.features(x)
        x = self.pool(x).flatten(1)
        return self.classifier(x)
