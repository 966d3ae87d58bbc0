"""A multilayer perceptron: dense layers, with norms on inputs `(N, C)`."""

from collections.abc import Sequence

from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.models.blocks import EVERYWHERE, DenseNormAct, Norm, Placement, check_positive, sides
from normzoo.models.options import dropout_layers, initialize, named_activation


class MLP(nn.Module):
    """Dense layers on the flattened image, and a linear output.

    Stages: stage i is the i-th hidden layer, with norm and activation; the output is never normalized. A norm gets
    inputs `(N, C)`, so that a batch statistic averages N values, and an instance statistic is undefined.

    With three hidden layers of 100 and `sigmoid` it is the network that Ioffe & Szegedy 2015 (arXiv:1502.03167,
    section 4.1) train on MNIST: 99,710 parameters without norms.

    Init: He normal for `relu`, `leaky_relu` and `gelu` (He et al. 2015, arXiv:1502.01852), Xavier uniform for the
    others and for the output (Glorot & Bengio 2010), unless `init` says otherwise; biases zero.

    Shape: `(N, in_channels, H, W) -> (N, num_classes)`

    Args:
        norm: Builds the norm for a number of features.
        placement: Which hidden layers are normalized, and on which side of the activation.
        image_size: Side of the images, or height and width.
        hidden: The size of each hidden layer.
        activation: `relu`, `leaky_relu`, `gelu`, `tanh`, `sigmoid` or `none`.
        init: `default` (see above), `he_normal`, `xavier_uniform` or `xavier_normal`.
        init_scale: Factor on every initial weight.
        dropout: Dropout probability after each hidden layer.

    Raises:
        UserError: If a size is not a positive integer, or another option is unknown or out of range; in `forward`, if
            the images have another size.
    """

    def __init__(
        self,
        norm: Norm,
        placement: Placement = EVERYWHERE,
        *,
        in_channels: int,
        num_classes: int,
        image_size: int | Sequence[int] | None,
        hidden: Sequence[int] = (100, 100, 100),
        activation: str = "relu",
        init: str = "default",
        init_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("mlp", in_channels=in_channels, num_classes=num_classes, hidden=hidden)
        act = named_activation("mlp", activation)
        height, width = sides("mlp", image_size)
        self.image_shape = (in_channels, height, width)

        layers: list[nn.Module] = []
        features = in_channels * height * width
        for stage, size in enumerate(hidden):
            here = norm if placement.at(stage, len(hidden)) else None
            layers.append(DenseNormAct(features, size, here, placement.order, activation=act))
            layers += dropout_layers("mlp", dropout)
            features = size
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(features, num_classes)
        rectified = activation in ("relu", "leaky_relu", "gelu")
        initialize("mlp", self.hidden, init, init_scale, own="he_normal" if rectified else "xavier_uniform")
        initialize("mlp", self.output, init, init_scale, own="xavier_uniform")

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise UserError(
                f"mlp was built for images of shape {self.image_shape} (C, H, W), got {tuple(x.shape[1:])}: "
                "set model.image_size to the size of the images"
            )
        x = x.flatten(1)
        return self.output(self.hidden(x))
