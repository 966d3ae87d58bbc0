"""Image folders in ImageNet's layout, read and augmented by worker processes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from normzoo.data._images import class_folders, image_files, read_image
from normzoo.data.base import ImageData, Split, balanced_order, check_whole, mixed
from normzoo.data.loader import EpochDataLoader, EpochSampler, mix
from normzoo.errors import UserError

LAYOUT = "it must contain folders train and val, each with one folder of images per class"


class ImageFolder(ImageData):
    """Images in `root/train/<class>/` and `root/val/<class>/`.

    Training: a random crop of 8 to 100 % of the area, resized to image_size, and a random horizontal flip. Validation:
    the shorter side resized to image_size · 256/224, and a centre crop. Both are scaled to [0, 1] and normalized per
    channel by the fixed `mean` and `std` (ImageNet's by default), not by statistics of the training subset. (seed,
    epoch, image) determines the crop of an image, for any number of workers or processes.

    Args:
        root: Folder with train and val.
        image_size: Side of the square images.
        mean, std: Per channel (R, G, B).
        num_workers: Worker processes per loader; 0 reads in the main process.
        options: Options of `ImageData`.

    Raises:
        UserError: If `root` is missing or has another layout; in `setup`, if train and val have different classes.

    Source: the training of K. He et al., 2016, arXiv:1512.03385, as used by Y. Wu, K. He, 2018, arXiv:1803.08494.
    """

    name = "image_folder"

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        image_size: int = 224,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        num_workers: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_whole("image_size", image_size, 1)
        check_whole("num_workers", num_workers, 0)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError("data.mean and data.std must be three numbers each, those of std above 0.")
        if root is None:
            raise UserError(f"the data set image_folder needs data.root=<folder>: {LAYOUT}.")
        self.root = Path(root).expanduser()
        self.image_size = image_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.num_workers = num_workers
        self._files: dict[str, _Files] = {}
        self._chosen: dict[str, Tensor] = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (3, H, W) of an image."""
        return (3, self.image_size, self.image_size)

    @property
    def num_classes(self) -> int:  # type: ignore[override]  # read from the folder here, a constant elsewhere
        """Number of class folders."""
        return len(self._classes("train"))

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self._split("train")[1])

    @property
    def num_val(self) -> int:
        """Number of validation images."""
        return len(self._split("val")[1])

    def setup(self, stage: str | None = None) -> None:
        """List the files and choose the subsets, once."""
        if not self._chosen:
            files = {split: self._list(split) for split in ("train", "val")}
            if files["train"].classes != files["val"].classes:
                odd = sorted(set(files["train"].classes) ^ set(files["val"].classes))
                raise UserError(
                    f"the data folder {self.root} has different classes in train and val ({', '.join(odd[:5])}"
                    f"{', ...' if len(odd) > 5 else ''} in only one of them). Make them the same."
                )
            chosen = {}
            for split, of in files.items():
                order = balanced_order(of.labels, self.split_seed)
                size = self._take_size(f"{split}_size", len(order), f"{self.root / split} holds")
                chosen[split] = mixed(order[:size], self.split_seed)
            self._files, self._chosen = files, chosen
        self._check_sizes()

    def loader(
        self, split: Split, batch_size: int, *, shuffle: bool = False, drop_last: bool = False
    ) -> EpochDataLoader:
        """Return this rank's batches of a split; see `ImageData.loader`."""
        files, chosen = self._split(split)
        if drop_last:
            self._check_batch(split, batch_size)
        train = split == "train" and shuffle
        sampler = _EpochAndIndex(
            len(chosen),
            batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
        )
        return EpochDataLoader(
            _Images(files, chosen, _transform(self.image_size, self.mean, self.std, train=train), self.seed),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),  # otherwise each pass would draw from the global generator
            pin_memory=torch.cuda.is_available(),
        )

    def _split(self, split: Split) -> tuple["_Files", Tensor]:
        if split not in ("train", "val"):
            raise ValueError(f"unknown split {split!r}; choose 'train' or 'val'")
        if not self._chosen:
            raise RuntimeError(f"{self.name}: call setup() first")
        return self._files[split], self._chosen[split]

    def _classes(self, split: str) -> list[Path]:
        try:
            classes = class_folders(self.root / split)
            why = ""
        except OSError as error:
            classes, why = [], f" ({error.strerror})"
        if not classes:
            raise UserError(f"the data folder {self.root} has no classes in {split}: {LAYOUT}{why}. Fix data.root.")
        return classes

    def _list(self, split: str) -> "_Files":
        classes = self._classes(split)
        try:
            return _Files([folder.name for folder in classes], image_files(classes))
        except OSError as error:
            raise UserError(f"cannot list {error.filename}: {error.strerror}. Fix data.root.") from error


class _Files:
    """A list of files and labels, stored in three tensors.

    Workers copy a list of a million Python strings page by page, because reading one changes its reference count; the
    memory of a tensor stays shared.
    """

    def __init__(self, classes: list[str], samples: list[tuple[str, int]]) -> None:
        names = [os.fsencode(path) for path, _ in samples]
        self.classes = classes
        self.labels = torch.tensor([label for _, label in samples])
        self.ends = torch.tensor([len(name) for name in names]).cumsum(0)
        self.letters = torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8)

    def __getitem__(self, index: int) -> tuple[str, int]:
        start = int(self.ends[index - 1]) if index else 0
        name = self.letters[start : int(self.ends[index])]
        return os.fsdecode(name.numpy().tobytes()), int(self.labels[index])


class _EpochAndIndex(EpochSampler):
    """Send the epoch along with each index, because persistent workers do not learn of it otherwise."""

    def __iter__(self) -> Any:
        epoch, _, index = self.take()
        yield from ((epoch, i) for i in index.tolist())


class _Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, files: _Files, chosen: Tensor, transform: Any, seed: int) -> None:
        self.files, self.chosen, self.transform, self.seed = files, chosen, transform, seed

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        path, label = self.files[int(self.chosen[index])]
        image = read_image(path)
        # torchvision's transforms draw from the global generator; restore it afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.seed, epoch, index))
            return self.transform(image), label


def _transform(size: int, mean: Sequence[float], std: Sequence[float], *, train: bool) -> Any:
    from torchvision.transforms import v2

    if train:
        crop = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    else:
        crop = [v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)]
    pixels = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    return v2.Compose([*crop, *pixels])
