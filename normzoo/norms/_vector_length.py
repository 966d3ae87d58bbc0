"""What the norms share that divide the vector of channels at each position by its length."""

import torch
from torch import Tensor

from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input

MEND = "use more channels, or leave the norm out at this place"


class VectorLength(NormLayer):
    """What the three have in common: the channels at each position are one vector."""

    shown = ("eps", "channel_dim")
    num_features: int
    channel_dim: int

    def _check(self, x: Tensor) -> None:
        check_input(self, x, self.num_features, channel_dim=self.channel_dim)
        check_count(self, x.shape, MEND, statistic="length", outcome="a number or its negative")

    def _length(self, x: Tensor) -> Tensor:
        """Of the vector at each position, in at least float32; its gradient at 0 is 0."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return torch.linalg.vector_norm(x, dim=self.channel_dim, keepdim=True, dtype=wide)
