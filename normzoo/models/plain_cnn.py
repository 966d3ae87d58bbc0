"""A plain convolutional network, small enough to train in seconds."""

from collections.abc import Sequence

from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.models.blocks import EVERYWHERE, ConvNormAct, Norm, Placement, check_positive
from normzoo.models.options import dropout_layers, initialize, named_activation


class PlainCNN(nn.Module):
    """A stack of 3x3 convolutions, global average pooling, optional dropout, and a linear layer.

    With the default widths and strides an 8x8 image shrinks to maps of 8, 4, 2 and 1: when training at batch 2, the
    last stage has two values per batch statistic, where BatchNorm fails.

    Stages: stage i is the i-th convolution, with norm and activation; there are `len(widths)`.

    Parameters with one input channel and ten classes: 24,904 weights of convolutions and of the linear layer, ten
    biases of the latter, and 240 weights and biases of norms.

    Init: He normal, biases zero (He et al. 2015, arXiv:1502.01852, section 2.2), unless `init` says otherwise.

    Shape: `(N, in_channels, H, W) -> (N, num_classes)`, for images of any size.

    Args:
        norm: Builds the norm for a number of channels.
        placement: Which stages are normalized, and on which side of the activation.
        widths: Channels of each convolution.
        strides: Stride of each convolution.
        activation: `relu`, `leaky_relu`, `gelu`, `tanh`, `sigmoid` or `none`.
        init: `default` (He normal), `he_normal`, `xavier_uniform` or `xavier_normal`.
        init_scale: Factor on every initial weight.
        dropout: Dropout probability before the linear layer.

    Raises:
        UserError: If widths and strides differ in number, a size is not a positive integer, or another option is
            unknown or out of range.
    """

    def __init__(
        self,
        norm: Norm,
        placement: Placement = EVERYWHERE,
        *,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int] = (8, 16, 32, 64),
        strides: Sequence[int] = (1, 2, 2, 2),
        activation: str = "relu",
        init: str = "default",
        init_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("plain_cnn", in_channels=in_channels, num_classes=num_classes, widths=widths, strides=strides)
        if len(widths) != len(strides):
            raise UserError(
                f"plain_cnn: {len(widths)} widths={list(widths)} but {len(strides)} strides={list(strides)}; "
                "give one stride per width"
            )
        act = named_activation("plain_cnn", activation)
        stages = []
        channels = in_channels
        for stage, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            here = norm if placement.at(stage, len(widths)) else None
            stages.append(ConvNormAct(channels, width, here, placement.order, stride=stride, activation=act))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Sequential(*dropout_layers("plain_cnn", dropout))
        self.classifier = nn.Linear(channels, num_classes)
        initialize("plain_cnn", self, init, init_scale, own="he_normal")

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        x = self.stages(x)
        x = x.mean(dim=(2, 3))
        return self.classifier(self.dropout(x))
