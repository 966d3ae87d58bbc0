"""Data sets that fit into tensors: subsets, sizes, scaling, order."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from normzoo.data._files import cache_folder, download_once
from normzoo.data.base import ImageData, Split, balanced_order, check_whole, mixed
from normzoo.data.loader import TensorLoader
from normzoo.data.pixels import SCALINGS, augmentation, check_shift, minmax, resize, shifted, zscore
from normzoo.errors import UserError

Images = tuple[Tensor, Tensor]


class InMemory(ImageData):
    """A data set held as a float32 tensor of images and an int64 tensor of labels per split.

    Pixels are divided to [0, 1], resized, and scaled per channel with statistics of the training subset, over (N, H, W)
    of its images as the network sees them:

        zscore: x = (x - mean) / std
        minmax: x = (x - min) / (max - min)

    Args:
        image_size: Side of the square images, averaged down or zero-padded up; None keeps them.
        scaling: `zscore`, `minmax` or `none`.
        augment: Whether to shift training images by up to 4 pixels and flip half of them (not suited to digits).
        distortion: Strength, from 0 to 1, of random shifts, brightness and contrast of training images, see
            `pixels.distort`.
        order: `shuffled`; `fixed`, shuffled once, with the same batches in every epoch; or `by_class`, with few classes
            per training batch, over all processes, see `order.by_class`.
        classes_per_batch: Number of classes with `by_class`; None for one.
        val_shift: `brightness`, `contrast` and `noise`, applied to validation images only, before scaling, see
            `pixels.shifted`.
        options: Options of `ImageData`.
    """

    native_shape: tuple[int, int, int]
    max_value = 255.0

    def __init__(
        self,
        *,
        image_size: int | None = None,
        scaling: str = "zscore",
        augment: bool = False,
        distortion: float = 0.0,
        order: str = "shuffled",
        classes_per_batch: int | None = None,
        val_shift: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_whole("image_size", image_size, 1, optional=True)
        check_whole("classes_per_batch", classes_per_batch, 1, optional=True)
        if scaling not in SCALINGS:
            raise UserError(f"data.scaling={scaling!r} is unknown; choose one of {', '.join(SCALINGS)}.")
        if order not in ("shuffled", "fixed", "by_class"):
            raise UserError(f"data.order={order!r} is unknown; choose one of shuffled, fixed, by_class.")
        if order != "by_class" and classes_per_batch is not None:
            raise UserError(f"data.classes_per_batch={classes_per_batch} needs data.order=by_class.")
        if isinstance(distortion, bool) or not isinstance(distortion, (int, float)) or not 0 <= distortion <= 1:
            raise UserError(f"data.distortion={distortion!r} must be a number from 0 to 1.")
        self.image_size = image_size
        self.scaling = scaling
        self.augment = augment
        self.distortion = distortion
        self.order = order
        self.classes_per_batch = (classes_per_batch or 1) if order == "by_class" else None
        self.val_shift = check_shift(val_shift)
        self.mean: Tensor | None = None
        self.std: Tensor | None = None
        self.at_once = 1  # training batches that are handed out as one slice, see `TensorLoader`
        self._counts: dict[str, int] = {}
        self._splits: dict[str, Images] = {}

    @abstractmethod
    def read(self) -> tuple[Images, Images | None]:
        """Return (images, labels) for training and for validation, or one pool of both and None.

        Shape: images (N, C, H, W) in [0, max_value], labels (N)
        """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image."""
        channels, height, width = self.native_shape
        return (channels, self.image_size or height, self.image_size or width)

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return self._counts["train"] if self._counts else len(self.tensors("train")[1])

    @property
    def num_val(self) -> int:
        """Number of validation images."""
        return self._counts["val"] if self._counts else len(self.tensors("val")[1])

    def tensors(self, split: Split) -> Images:
        """Return all images and labels of a split, after `setup`."""
        if split not in ("train", "val"):
            raise ValueError(f"unknown split {split!r}; choose 'train' or 'val'")
        if not self._splits:
            raise RuntimeError(f"{self.name}: call prepare_data() and setup() first")
        return self._splits[split]

    def survey(self) -> None:
        """Count the images of both splits and check that they suffice."""
        if not self._counts:
            (_, labels), val = self.read()
            train_index, val_index = self._choose(labels, None if val is None else val[1])
            self._counts = {"train": len(train_index), "val": len(val_index)}
        self._check_sizes()

    def setup(self, stage: str | None = None) -> None:
        """Read the data set, once for all stages of Lightning."""
        if not self._splits:
            train, val = self._select(*self.read())
            x_train = self._pixels(train[0])
            x_val = shifted(self._pixels(val[0]), self.val_shift, self.split_seed)
            if self.scaling == "zscore":
                self.mean, self.std = zscore(x_train, x_val)
            elif self.scaling == "minmax":
                minmax(x_train, x_val)
            self._splits = {"train": (x_train, train[1].long()), "val": (x_val, val[1].long())}
            self._counts = {split: len(labels) for split, (_, labels) in self._splits.items()}
        self._check_sizes()

    def loader(self, split: Split, batch_size: int, *, shuffle: bool = False, drop_last: bool = False) -> TensorLoader:
        """Return this rank's batches of a split; see `ImageData.loader`."""
        x, y = self.tensors(split)
        if drop_last:
            self._check_batch(split, batch_size)
        training = shuffle and split == "train"
        unit = float(x.std()) if training and self.distortion else 1.0
        augment, draws = (augmentation(self.augment, self.distortion, unit) if training else None) or (None, 0)
        return TensorLoader(
            x,
            y,
            batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
            reshuffle=self.order != "fixed",
            classes_per_batch=self.classes_per_batch if training else None,
            at_once=self.at_once if training else 1,
            augment=augment,
            draws=draws,
        )

    def _select(self, train: Images, val: Images | None) -> tuple[Images, Images]:
        train_index, val_index = self._choose(train[1], None if val is None else val[1])
        x_val, y_val = val or train
        return (train[0][train_index], train[1][train_index]), (x_val[val_index], y_val[val_index])

    def _choose(self, y: Tensor, y_val: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the indices of both splits, from two sets or from one pool."""
        order = balanced_order(y, self.split_seed)
        if y_val is not None:
            size = self._take_size("train_size", len(y), "the training files hold")
            order_val = balanced_order(y_val, self.split_seed)
            size_val = self._take_size("val_size", len(y_val), "the validation files hold")
            return mixed(order[:size], self.split_seed), mixed(order_val[:size_val], self.split_seed)

        # Take validation images first, so that they are the same for every train_size.
        size_val = len(y) // 5 if self.val_size is None else self.val_size
        size = len(y) - size_val if self.train_size is None else self.train_size
        if size < 1 or size + size_val > len(y):
            raise UserError(
                f"{self.name}: train_size {self.train_size} and val_size {size_val} together exceed its {len(y)} "
                "images, or leave none for training. Lower data.train_size or data.val_size."
            )
        train_index = mixed(order[size_val : size_val + size], self.split_seed)
        return train_index, mixed(order[:size_val], self.split_seed)

    def _pixels(self, x: Tensor) -> Tensor:
        pixels = x.float() / self.max_value
        return pixels if self.image_size is None else resize(pixels, self.image_size)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images: another process reads them faster than they can be sent."""
        return {**self.__dict__, "_splits": {}, "_counts": {}}


class Downloadable(InMemory):
    """A data set of files that torchvision can download.

    Args:
        root: Folder with the files.
        download: Whether torchvision may download missing files, into `root` or the cache folder.
        options: Options of `InMemory` and `ImageData`.
    """

    torchvision_class: str
    download_folder: str
    how_else: str

    def __init__(self, *, root: str | Path | None = None, download: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.root = None if root is None else Path(root).expanduser()
        self.download = download

    @abstractmethod
    def find(self) -> Path | None:
        """Return the folder that has the files, if there is one."""

    def prepare_data(self) -> None:
        """Download the files if they are missing and `download` is set."""
        if not self.download or self.find():
            return

        def fetch(parent: Path) -> None:
            from torchvision import datasets

            getattr(datasets, self.torchvision_class)(str(parent), download=True)

        target = (self.root or cache_folder()) / self.download_folder
        download_once(target, fetch, lambda: self.find() is not None, self.how_else)
