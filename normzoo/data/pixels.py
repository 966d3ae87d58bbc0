"""Transform images in memory: resize, scale, augment, and shift the validation images."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normzoo.data.loader import Augment, generator
from normzoo.errors import UserError

SCALINGS = ("zscore", "minmax", "none")
NO_SHIFT = {"brightness": 0.0, "contrast": 1.0, "noise": 0.0}


def resize(x: Tensor, size: int) -> Tensor:
    """Make images square: average each side down to `size`, or zero-pad it up to `size`.

    Shape: (N, C, H, W) -> (N, C, size, size)
    """
    height, width = x.shape[-2:]
    down = (min(height, size), min(width, size))
    if down != (height, width):
        x = F.adaptive_avg_pool2d(x, down)
    top, left = (size - down[0]) // 2, (size - down[1]) // 2
    return F.pad(x, (left, size - down[1] - left, top, size - down[0] - top))


def zscore(x_train: Tensor, x_val: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each channel in place to mean 0 and variance 1 over the training images; return mean and deviation.

    Shape: (N, C, H, W), (M, C, H, W) -> (C), (C)
    """
    mean = x_train.mean((0, 2, 3), dtype=torch.float64).float().view(-1, 1, 1)
    x_train.sub_(mean)
    std = x_train.square().mean((0, 2, 3), dtype=torch.float64).sqrt().float().view(-1, 1, 1)
    std[std == 0] = 1.0  # a constant channel stays at zero
    x_train.div_(std)
    x_val.sub_(mean).div_(std)
    return mean.flatten(), std.flatten()


def minmax(x_train: Tensor, x_val: Tensor) -> None:
    """Scale each channel in place to [0, 1] over the training images; a constant one becomes 0.

    Shape: (N, C, H, W), (M, C, H, W)
    """
    low, high = (edge((0, 2, 3)).view(-1, 1, 1) for edge in (x_train.amin, x_train.amax))
    width = torch.where(high == low, 1.0, high - low)
    for x in (x_train, x_val):
        x.sub_(low).div_(width)


def crop_flip(x: Tensor, draws: Tensor, padding: int = 4) -> Tensor:
    """Shift each image by up to `padding` pixels, filling with zeros, and flip half of them horizontally.

    Shape: x (N, C, H, W), draws (N, 3) in [0, 1) -> (N, C, H, W)

    Source: K. He et al., 2016, arXiv:1512.03385, section 4.2.
    """
    height, width = x.shape[-2:]
    shift = (draws[:, :2] * (2 * padding + 1)).long()
    rows = shift[:, 0, None] + torch.arange(height)
    columns = shift[:, 1, None] + torch.arange(width)
    columns = torch.where(draws[:, 2, None] < 0.5, columns.flip(1), columns)
    return _gather(F.pad(x, [padding] * 4), rows, columns)


def distort(x: Tensor, draws: Tensor, strength: float, unit: float) -> Tensor:
    """Shift each image and change its brightness and contrast.

        y = (1 + strength / 2 · u1) · moved(x) + strength / 2 · unit · u2,  u1 and u2 in [-1, 1)

    The shift is up to strength / 8 of each side in both directions; the edge is repeated.

    Shape: x (N, C, H, W), draws (N, 4) in [0, 1) -> (N, C, H, W)

    Args:
        x: Images.
        draws: Uniform random numbers.
        strength: From 0 to 1.
        unit: Standard deviation of the data set.
    """
    height, width = x.shape[-2:]
    sides = torch.tensor([height, width])
    reach = (strength * sides / 8).round().long()
    shift = (draws[:, :2] * (2 * reach + 1)).long() - reach
    rows = (shift[:, 0, None] + torch.arange(height)).clamp(0, height - 1)
    columns = (shift[:, 1, None] + torch.arange(width)).clamp(0, width - 1)
    moved = _gather(x, rows, columns)
    contrast, brightness = ((2 * draws[:, i] - 1).view(-1, 1, 1, 1) * strength / 2 for i in (2, 3))
    return moved * (1 + contrast) + brightness * unit


def _gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Take rows (N, H) and columns (N, W) of each image."""
    image, channel = torch.arange(len(x))[:, None, None, None], torch.arange(x.shape[1])[:, None, None]
    return x[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def augmentation(crops: bool, distortion: float, unit: float) -> tuple[Augment, int] | None:
    """Return the augmentation of training images and the number of draws it takes per image; None for nothing."""
    used = 3 if crops else 0

    def augment(x: Tensor, draws: Tensor) -> Tensor:
        x = crop_flip(x, draws[:, :used]) if crops else x
        return distort(x, draws[:, used:], distortion, unit) if distortion else x

    return (augment, used + (4 if distortion else 0)) if crops or distortion else None


def check_shift(shift: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the brightness, contrast and noise of validation images, with defaults for missing entries.

    Raises:
        UserError: If an entry is unknown or out of range.
    """
    shift = shift or {}
    unknown = set(shift) - set(NO_SHIFT)
    if unknown:
        raise UserError(f"data.val_shift has unknown keys {sorted(unknown)}; choose from {', '.join(NO_SHIFT)}.")
    values = {**NO_SHIFT, **shift}
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
        if not number or (value < 0 and name != "brightness"):
            least = "" if name == "brightness" else " of at least 0"
            raise UserError(f"data.val_shift.{name}={value!r} must be a number{least}.")
    return values


def shifted(x: Tensor, shift: Mapping[str, float], seed: int) -> Tensor:
    """Change brightness, contrast and noise of images; the same for the same seed.

        y = contrast · x + brightness + noise · epsilon,  epsilon ~ N(0, 1) for each pixel

    Shape: (N, C, H, W) -> (N, C, H, W)
    """
    if shift == NO_SHIFT:
        return x
    y = shift["contrast"] * x + shift["brightness"]
    if shift["noise"]:
        y += shift["noise"] * torch.randn(x.shape, generator=generator(seed, 3))
    return y
