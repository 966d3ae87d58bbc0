"""Synthetic images: a Gaussian prototype per class, plus noise; for tests and for machines without data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normzoo.data.base import check_whole
from normzoo.data.in_memory import Images, InMemory
from normzoo.data.loader import generator
from normzoo.errors import UserError


class Synthetic(InMemory):
    """Learnable images made in memory, the same for the same `split_seed`.

        x = prototype[y] + noise · epsilon,   epsilon ~ N(0, 1) for each pixel

    A prototype is a grid of at most 4×4 normal values enlarged to H×W, so that averaging down preserves it.

    Args:
        shape: (C, H, W).
        num_classes: Labels are 0 .. num_classes-1, balanced as far as possible.
        noise: Standard deviation of the noise.
        train_size, val_size: Number of images.
        options: Options of `InMemory` and `ImageData`.

    Raises:
        UserError: If a shape, size or noise is out of range.
    """

    name = "synthetic"
    max_value = 1.0

    def __init__(
        self,
        *,
        shape: Sequence[int] = (1, 16, 16),
        num_classes: int = 10,
        noise: float = 1.0,
        train_size: int = 1000,
        val_size: int = 200,
        **options: Any,
    ) -> None:
        super().__init__(train_size=train_size, val_size=val_size, **options)
        check_whole("train_size", train_size, 1)
        check_whole("val_size", val_size, 1)
        check_whole("num_classes", num_classes, 1)
        if len(shape) != 3:
            raise UserError(f"data.shape={list(shape)} must be three integers [C, H, W].")
        for size in shape:
            check_whole("shape", size, 1)
        if not noise >= 0:
            raise UserError(f"data.noise={noise!r} must be at least 0.")
        channels, height, width = shape
        self.native_shape = (channels, height, width)
        self.num_classes = num_classes
        self.noise = noise
        self._sizes = (train_size, val_size)

    def read(self) -> tuple[Images, Images]:
        """Draw training and validation images with labels."""
        channels, height, width = self.native_shape
        grid = torch.randn(
            self.num_classes, channels, min(height, 4), min(width, 4), generator=generator(self.split_seed, 0)
        )
        prototypes = F.interpolate(grid, (height, width))
        train_size, val_size = self._sizes
        return self._draw(prototypes, train_size, 1), self._draw(prototypes, val_size, 2)

    def _draw(self, prototypes: Tensor, size: int, stream: int) -> Images:
        y = torch.arange(size) % self.num_classes
        noise = torch.randn(size, *self.native_shape, generator=generator(self.split_seed, stream))
        return prototypes[y] + self.noise * noise, y
