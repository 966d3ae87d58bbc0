"""What most layers share: the values in a statistic, the affine parameters, and how a layer prints."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normzoo.norms._standardize import per_channel


class NormLayer(nn.Module):
    """A layer that takes statistics, whose number of values follows from the fact `reduces_over`.

    Attributes:
        reduces_over: The dimensions of a statistic; `register` sets it.
        shown: The attributes that a layer prints, after its number of channels.

    Raises:
        NormValueError: A ValueError, by each layer's forward, if the number of channels of an input differs, or a
            statistic would be of a single value.
    """

    num_features: int
    reduces_over = ""
    shown: tuple[str, ...] = ("eps",)

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the values in one statistic; of several, in the first that is within a sample."""
        statistics = self.reduces_over.replace(" and ", "; ").split("; ")
        within = [dims for dims in statistics if not dims.startswith("N")]
        return values_over(self, (within or statistics)[0], shape)

    def extra_repr(self) -> str:
        """Print the number of channels and the options."""
        return ", ".join([str(self.num_features), *[f"{name}={getattr(self, name)}" for name in self.shown]])


def values_over(layer: NormLayer, dims: str, shape: Sequence[int]) -> int:
    """Multiply the sizes of the dimensions, named as in `reduces_over`: N, C, C/G and *; other words count as 1."""
    channel_dim = getattr(layer, "channel_dim", 1) % len(shape)
    sizes = {
        "N": shape[0],
        "C": layer.num_features,
        "C/G": layer.num_features // getattr(layer, "num_groups", 1),
        "*": math.prod([size for dim, size in enumerate(shape) if dim not in (0, channel_dim)]),
    }
    return math.prod([sizes.get(dim.split()[0], 1) for dim in dims.split(", ")])


class AffineNorm(NormLayer):
    """A layer with a weight and a bias for each channel, which torch has no class for."""

    weight: nn.Parameter  # None without affine
    bias: nn.Parameter  # None without affine or bias

    def __init__(
        self,
        num_features: int,
        affine: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        *,
        bias: bool = True,
        rows: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.affine = affine
        for name, learned in (("weight", affine), ("bias", affine and bias)):
            values = torch.empty(*rows, num_features, device=device, dtype=dtype) if learned else None
            self.register_parameter(name, None if values is None else nn.Parameter(values))

    def reset_parameters(self) -> None:
        """Scale by 1 and shift by 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def scale_and_shift(y: Tensor, weight: Tensor | None, bias: Tensor | None, channel_dim: int = 1) -> Tensor:
    """Compute y · weight + bias for each channel, of those that are there."""
    if weight is not None:
        y = y * per_channel(weight, y, channel_dim)
    return y if bias is None else y + per_channel(bias, y, channel_dim)
