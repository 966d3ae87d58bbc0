"""Check the layer that a norm of weights is put on."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from normzoo.norms._refuse import NormValueError, check_dtype
from normzoo.validation import ArgumentValueError


def weight_of(norm: str, module: Any, tensor_name: str) -> Tensor:
    """Return the layer's weight, a matrix or a kernel; refuse what is not a layer or has no such weight."""
    mend = f"put it on a dense or convolutional layer, as in normzoo.create({norm!r}, torch.nn.Conv2d(3, 8, 3))"
    if not isinstance(module, nn.Module):
        raise NormValueError(f"{norm} takes the layer whose weight it normalizes; got {module!r}: {mend}")
    weight = getattr(module, tensor_name, None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        kind = type(module).__name__
        raise NormValueError(f"{norm} takes a layer whose {tensor_name} has 2 dimensions or more; got {kind}: {mend}")
    check_dtype(norm, weight)
    return weight


def check_dim(norm: str, weight: Tensor, dim: int | None, also: str = "") -> None:
    """Refuse a dimension that the weight does not have; `also` is what else the norm takes, for the message."""
    rank = weight.dim()
    if dim is not None and not -rank <= dim < rank:
        raise ArgumentValueError(
            f"{norm}: dim is one of the {rank} of the weight, 0 to {rank - 1} or {-rank} to -1{also}, whose shape is "
            f"{tuple(weight.shape)}; got {dim}"
        )


def dims_of_an_output(norm: str, module: nn.Module, weight: Tensor) -> tuple[int, ...]:
    """Return the dimensions of the weight that hold all the weights of one output of the layer.

    Raises:
        NormValueError: A ValueError, if one output has one weight, or its weights are not in one place.
    """
    transposed = isinstance(module, _ConvTransposeNd)
    if transposed and module.groups != 1:
        raise NormValueError(
            f"{norm} does not know the outputs of a transposed convolution with groups={module.groups}: use groups=1"
        )
    output = 1 if transposed else 0
    if weight.numel() == weight.shape[output]:
        raise NormValueError(
            f"{norm} takes at least 2 weights to an output, whose mean and variance it takes out; {module} has 1: "
            f"leave this layer as it is"
        )
    return tuple(dim for dim in range(weight.dim()) if dim != output)
