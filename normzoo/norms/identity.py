"""No normalization: the baseline that every other norm is compared with."""

from torch import Tensor, nn

from normzoo.norms._refuse import check_dtype
from normzoo.registry import register


@register("identity", aliases=("none", "no_norm"), batch_dependent=False, reduces_over="-", fused=True)
class Identity(nn.Identity):
    """Return the input as it is, so that a model can be built without a norm.

        y = x

    Shape: `(*)` -> `(*)`.

    Args:
        num_features: The number of channels, which every norm takes; not used.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, input: Tensor) -> Tensor:
        check_dtype(self, input)
        return input

    def extra_repr(self) -> str:
        return str(self.num_features)
