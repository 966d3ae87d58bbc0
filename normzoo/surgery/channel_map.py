"""Measure what a layer does to each channel in evaluation."""

import copy

import torch
from torch import Tensor, nn

LARGE = 2.0**20  # beside it no shift costs the scale its digits


def scale_and_shift(norm: nn.Module, x: Tensor, axis: int) -> tuple[Tensor, Tensor, list[nn.Module]] | None:
    """Return what a layer does in evaluation, if that is to scale and shift each channel, by what comes out of a copy.

    Args:
        norm: In evaluation mode.
        x: An input.
        axis: The dimension of the channels.

    Returns:
        Scale and shift of each channel, in float64, and the children that come after, such as an activation; None if
        the layer does something else.
    """
    twin = copy.deepcopy(norm).double()
    after: list[nn.Module] = []
    measured = _measure(twin, x, axis)
    if measured is None:
        after = [child for child in norm.children() if not isinstance(child, nn.Identity)]
        for name, _ in norm.named_children():
            setattr(twin, name, nn.Identity())
        measured = _measure(twin, x, axis) if after else None
    if measured is None:
        return None
    expected = apply(x, *measured, axis)
    for child in after:
        expected = child(expected)
    if after and not torch.allclose(norm.forward(x.clone()), expected, rtol=1e-2, atol=1e-3):
        return None
    return (*measured, after)


def _measure(twin: nn.Module, x: Tensor, axis: int) -> tuple[Tensor, Tensor] | None:
    """Measure scale and shift of each channel on known inputs; None if the layer does something else."""
    shape = [min(size, 2) if dim != axis else size for dim, size in enumerate(x.shape)]
    random = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x.device)
    large = torch.full_like(random, LARGE)
    try:
        high, low, middle, y = (twin.forward(each) for each in (large, -large, 0 * large, random))
    except Exception:  # whatever a layer says of an input that is not for it
        return None
    scale, shift = (t.movedim(axis, 0).flatten(1)[:, 0] for t in ((high - low) / (2 * LARGE), middle))
    return (scale, shift) if torch.allclose(apply(random, scale, shift, axis), y, rtol=1e-5, atol=1e-5) else None


def apply(x: Tensor, scale: Tensor, shift: Tensor, axis: int) -> Tensor:
    """Scale and shift each channel, in float64, and return it in the dtype of `x`."""
    shape = [-1 if dim == axis else 1 for dim in range(x.dim())]
    return (x.double() * scale.view(shape) + shift.view(shape)).to(x.dtype)
