"""LeNet-5 with tanh and average pooling, the network on which BatchNorm is often taught."""

from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.errors import UserError
from normzoo.models.blocks import EVERYWHERE, ConvNormAct, DenseNormAct, Norm, Placement, check_positive
from normzoo.models.options import dropout_layers, initialize, named_activation


class LeNet5(nn.Module):
    """Three 5x5 convolutions of 6, 16 and 120 channels, a dense layer of 84, and a linear output.

    `C1 - S2 - C3 - S4 - C5 - F6 - output`, where S2 and S4 average 2x2 patches, after activation and norm. As in
    today's tutorials, C3 sees all maps of S2, pooling has no weights, tanh is not scaled, and the output is linear. C5
    covers its whole 5x5 map, and so is a dense layer over 400 values.

    Stages: 0 is C1, 1 is C3, 2 is C5, 3 is F6; the output is never normalized. The tutorials' BatchNorm after tanh on
    the first two convolutions is `Placement(order="post_act", where=(0, 1))`. At stages 2 and 3 the map is a single
    value, where an instance statistic is undefined; at stage 3 the norm gets an input `(N, 84)`.

    Parameters: 61,706 without norms, with one input channel and ten classes; the paper, with its sparse C3 and its
    weights in pooling, has about 60,000.

    Init: Xavier uniform, biases zero (Glorot & Bengio 2010, section 4.2.1), unless `init` says otherwise.

    Shape: `(N, in_channels, 32, 32) -> (N, num_classes)`. Images of 28 to 31 pixels are zero-padded to 32x32, as the
    paper does with 28x28 digits.

    Source: LeCun, Bottou, Bengio & Haffner 1998, Gradient-based learning applied to document recognition, section II.B.

    Args:
        norm: Builds the norm for a number of channels.
        placement: Which stages are normalized, and on which side of the activation.
        activation: `tanh`, `relu`, `leaky_relu`, `gelu`, `sigmoid` or `none`.
        init: `default` (Xavier uniform), `he_normal`, `xavier_uniform` or `xavier_normal`.
        init_scale: Factor on every initial weight.
        dropout: Dropout probability after the two dense stages, C5 and F6; the paper has none.

    Raises:
        UserError: If a size is not a positive integer, or another option is unknown or out of range; in `forward`, if
            the image is not 28 to 32 pixels on each side.
    """

    def __init__(
        self,
        norm: Norm,
        placement: Placement = EVERYWHERE,
        *,
        in_channels: int,
        num_classes: int,
        activation: str = "tanh",
        init: str = "default",
        init_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("lenet5", in_channels=in_channels, num_classes=num_classes)
        order, act = placement.order, named_activation("lenet5", activation)
        at = [norm if placement.at(stage, 4) else None for stage in range(4)]
        self.c1 = ConvNormAct(in_channels, 6, at[0], order, kernel_size=5, padding=0, activation=act)
        self.s2 = nn.AvgPool2d(2)
        self.c3 = ConvNormAct(6, 16, at[1], order, kernel_size=5, padding=0, activation=act)
        self.s4 = nn.AvgPool2d(2)
        self.c5 = ConvNormAct(16, 120, at[2], order, kernel_size=5, padding=0, activation=act)
        self.f6 = DenseNormAct(120, 84, at[3], order, activation=act)
        self.dropout = nn.Sequential(*dropout_layers("lenet5", dropout))
        self.output = nn.Linear(84, num_classes)
        initialize("lenet5", self, init, init_scale, own="xavier_uniform")

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        height, width = x.shape[2:]
        if not (28 <= height <= 32 and 28 <= width <= 32):
            raise UserError(
                f"lenet5 needs images of 32x32 pixels (28 to 31 are zero-padded), got {height}x{width}: "
                "set data.image_size=32 or 28, or choose another model"
            )
        x = F.pad(x, ((32 - width) // 2, (33 - width) // 2, (32 - height) // 2, (33 - height) // 2))
        x = self.s2(self.c1(x))
        x = self.s4(self.c3(x))
        x = self.dropout(self.c5(x).flatten(1))
        x = self.dropout(self.f6(x))
        return self.output(x)
