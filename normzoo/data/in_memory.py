"""Data sets small enough to be tensors: subsets, sizes, z-scores."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normzoo.data.base import ImageData, Split, balanced_order, check_whole, mixed
from normzoo.data.loader import TensorLoader
from normzoo.errors import UserError

Images = tuple[Tensor, Tensor]


def resize(x: Tensor, size: int) -> Tensor:
    """Square images: each side averaged down to `size`, or centred between zeros up to it.

    Shape: (N, C, H, W) -> (N, C, size, size)
    """
    height, width = x.shape[-2:]
    down = (min(height, size), min(width, size))
    if down != (height, width):
        x = F.adaptive_avg_pool2d(x, down)
    top, left = (size - down[0]) // 2, (size - down[1]) // 2
    return F.pad(x, (left, size - down[1] - left, top, size - down[0] - top))


def crop_flip(x: Tensor, draws: Tensor, padding: int = 4) -> Tensor:
    """Each image shifted by up to `padding` pixels, zeros coming in, and half of them mirrored.

    Shape: x (N, C, H, W), draws (N, 3) in [0, 1) -> (N, C, H, W)

    Source: K. He et al., 2016, arXiv:1512.03385, section 4.2.
    """
    n, channels, height, width = x.shape
    shift = (draws[:, :2] * (2 * padding + 1)).long()
    rows = shift[:, 0, None] + torch.arange(height)
    columns = shift[:, 1, None] + torch.arange(width)
    columns = torch.where(draws[:, 2, None] < 0.5, columns.flip(1), columns)
    image = torch.arange(n)[:, None, None, None]
    channel = torch.arange(channels)[:, None, None]
    return F.pad(x, [padding] * 4)[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class InMemory(ImageData):
    """A data set held as one float32 tensor of images and one int64 tensor of labels a split.

    Pixels are scaled to [0, 1], resized, and z-scored per channel with the statistics of the training subset:

        x = (x - mean) / std,  mean and std over (N, H, W) of the training images as the network sees them

    Args:
        image_size: side of the square images: averaged down or zero-padded up; None leaves them as they are.
        zscore: whether to z-score.
        augment: shift by up to 4 pixels and mirror the training images (not for digits, which are no longer themselves
            in a mirror).
        options: those of `ImageData`.
    """

    native_shape: tuple[int, int, int]
    max_value = 255.0

    def __init__(
        self, *, image_size: int | None = None, zscore: bool = True, augment: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        check_whole("image_size", image_size, 1, optional=True)
        self.image_size = image_size
        self.zscore = zscore
        self.augment = augment
        self.mean: Tensor | None = None
        self.std: Tensor | None = None
        self._splits: dict[str, Images] = {}

    @abstractmethod
    def read(self) -> tuple[Images, Images | None]:
        """All (images, labels) for training and for validation, or one pool of both and None.

        Shape: images (N, C, H, W) in [0, max_value], labels (N)
        """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.native_shape
        return (channels, self.image_size or height, self.image_size or width)

    @property
    def num_train(self) -> int:
        return len(self.tensors("train")[1])

    @property
    def num_val(self) -> int:
        return len(self.tensors("val")[1])

    def tensors(self, split: Split) -> Images:
        """All images and labels of a split, after `setup`."""
        if split not in ("train", "val"):
            raise ValueError(f"split is {split!r}: 'train' or 'val' is expected")
        if not self._splits:
            raise RuntimeError(f"{self.name}: call prepare_data() and setup() first")
        return self._splits[split]

    def setup(self, stage: str | None = None) -> None:
        """Read the data set once; later calls, one for each stage of Lightning, find it read."""
        if not self._splits:
            train, val = self._select(*self.read())
            x_train, x_val = self._pixels(train[0]), self._pixels(val[0])
            if self.zscore:
                self._standardize(x_train, x_val)
            self._splits = {"train": (x_train, train[1].long()), "val": (x_val, val[1].long())}
        self._check_sizes()

    def loader(self, split: Split, batch_size: int, *, shuffle: bool = False, drop_last: bool = False) -> TensorLoader:
        x, y = self.tensors(split)
        if drop_last:
            self._check_batch(split, batch_size)
        return TensorLoader(
            x,
            y,
            batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
            augment=crop_flip if self.augment and shuffle and split == "train" else None,
        )

    def _select(self, train: Images, val: Images | None) -> tuple[Images, Images]:
        x, y = train
        order = balanced_order(y, self.split_seed)
        if val is not None:
            size = self._take_size("train_size", len(y), "the training files hold")
            order_val = balanced_order(val[1], self.split_seed)
            size_val = self._take_size("val_size", len(val[1]), "the validation files hold")
            train_index, val_index = mixed(order[:size], self.split_seed), mixed(order_val[:size_val], self.split_seed)
            return (x[train_index], y[train_index]), (val[0][val_index], val[1][val_index])

        # Validation images come first in the order, so that they are the same for every train_size.
        size_val = len(y) // 5 if self.val_size is None else self.val_size
        size = len(y) - size_val if self.train_size is None else self.train_size
        if size < 1 or size + size_val > len(y):
            raise UserError(
                f"{self.name}: train_size {self.train_size} and val_size {size_val} together exceed its {len(y)} "
                "images, or leave none for training. Lower data.train_size or data.val_size."
            )
        val_index = mixed(order[:size_val], self.split_seed)
        train_index = mixed(order[size_val : size_val + size], self.split_seed)
        return (x[train_index], y[train_index]), (x[val_index], y[val_index])

    def _pixels(self, x: Tensor) -> Tensor:
        pixels = x.float() / self.max_value
        return pixels if self.image_size is None else resize(pixels, self.image_size)

    def _standardize(self, x_train: Tensor, x_val: Tensor) -> None:
        mean = x_train.mean((0, 2, 3), dtype=torch.float64).float().view(-1, 1, 1)
        x_train.sub_(mean)
        std = x_train.square().mean((0, 2, 3), dtype=torch.float64).sqrt().float().view(-1, 1, 1)
        std[std == 0] = 1.0  # a channel that never changes stays at zero
        x_train.div_(std)
        x_val.sub_(mean).div_(std)
        self.mean, self.std = mean.flatten(), std.flatten()
