"""A plain LightningDataModule as normzoo needs it: the passes that it lacks are made from its data sets."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, TensorDataset

from normzoo.data.base import ImageData, Split
from normzoo.data.loader import EpochDataLoader, EpochSampler
from normzoo.errors import UserError

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class OwnData(ImageData):
    """The data sets of a LightningDataModule, in batches of normzoo's.

    Its two dataloaders tell the data sets, how samples are collated, the workers, and whether training is shuffled. The
    order of an epoch is drawn anew, from seed and epoch, so that a sweep can resume it and split it over processes; the
    first batch tells the shape, and labels the classes, unless the data module has `num_classes`.

    Args:
        own: The data module.
        options: Options of `ImageData`.

    Raises:
        UserError: In `setup`, if it has what cannot be done in this way.
    """

    def __init__(self, own: LightningDataModule, **options: Any) -> None:
        super().__init__(**options)
        self.own = own
        self.name = type(own).__name__
        self._loaders: dict[str, DataLoader[Any]] = {}
        self._shape: tuple[int, ...] = ()

    def prepare_data(self) -> None:
        """Have the data module prepare its data."""
        self.own.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set up the data module, and check what its dataloaders return."""
        if self._loaders:
            self._check_sizes()
            return
        self.own.setup("fit")
        for hook in _HOOKS:
            if getattr(type(self.own), hook) is not getattr(LightningDataModule, hook):
                raise UserError(
                    f"{self.name}.{hook}: recomputed statistics would be of batches without it; do it in the data set"
                )
        self._loaders = {"train": self._checked("train"), "val": self._checked("val")}
        self.drop_last = self._loaders["train"].drop_last
        if (self._loaders["val"].batch_size or 1) > 1:
            self.eval_batch_size = self._loaders["val"].batch_size or 1
        x = self._first_sample()
        self._shape = tuple(x.shape[1:])
        classes = getattr(self.own, "num_classes", None)
        self.num_classes = classes if classes is not None else self._count_classes()
        self._check_sizes()

    def _checked(self, split: Split) -> DataLoader[Any]:
        found = getattr(self.own, f"{split}_dataloader")()
        if not isinstance(found, DataLoader):
            raise UserError(f"{self.name}.{split}_dataloader returns {found!r:.60}; it must be one DataLoader")
        if isinstance(found.dataset, IterableDataset):
            raise UserError(f"{self.name}: {split} is an IterableDataset, which has no order to shuffle and no length")
        sampler = found.sampler if type(found.batch_sampler) is BatchSampler else found.batch_sampler
        if type(sampler) not in (RandomSampler, SequentialSampler):
            raise UserError(
                f"{self.name}.{split}_dataloader draws by {type(sampler).__name__}, which cannot be resumed or split "
                "over processes; shuffle by shuffle=True, or write a normzoo.data.base.ImageData"
            )
        return found

    def _first_sample(self) -> Tensor:
        batch = next(iter(self.loader("train", 1)))
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(b, Tensor) for b in batch):
            raise UserError(
                f"{self.name}: a batch is a {type(batch).__name__}; it must be (images, labels), two tensors"
            )
        x, y = batch
        if not x.is_floating_point() or y.shape != (1,) or y.is_floating_point():
            raise UserError(
                f"{self.name}: a batch of one has images {tuple(x.shape)} of {x.dtype} and labels {tuple(y.shape)} of "
                f"{y.dtype}; images must be floating and labels (N) of whole numbers"
            )
        return x

    def _count_classes(self) -> int:
        return 1 + max(int(labels.max()) for labels in self._labels())

    def _labels(self) -> Iterator[Tensor]:
        splits: tuple[Split, ...] = ("train", "val")
        return (labels for split in splits for _, labels in self.loader(split, self.eval_batch_size))

    @property
    def image_shape(self) -> Any:
        """The shape of a sample."""
        return self._shape

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return len(self._loaders["train"].dataset)  # type: ignore[arg-type]

    @property
    def num_val(self) -> int:
        """Number of validation samples."""
        return len(self._loaders["val"].dataset)  # type: ignore[arg-type]

    def loader(
        self, split: Split, batch_size: int, *, shuffle: bool = False, drop_last: bool = False
    ) -> EpochDataLoader:
        """Return this rank's batches of a split; see `ImageData.loader`."""
        like = self._loaders[split]
        if drop_last:
            self._check_batch(split, batch_size)
        sampler = EpochSampler(
            len(like.dataset),  # type: ignore[arg-type]
            batch_size,
            shuffle=shuffle and isinstance(like.sampler, RandomSampler),
            drop_last=drop_last,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
        )
        return EpochDataLoader(
            like.dataset,
            batch_size,
            sampler=sampler,
            num_workers=like.num_workers,
            collate_fn=like.collate_fn,
            pin_memory=like.pin_memory,
            worker_init_fn=like.worker_init_fn,
            generator=torch.Generator().manual_seed(self.seed),
        )


class TensorData(LightningDataModule):
    """Tensors as a data module: `super().__init__(x_train, y_train, x_val, y_val)`, and done.

    Args:
        x_train, x_val: Samples (N, C, *), floating.
        y_train, y_val: Labels (N), whole numbers.
    """

    def __init__(self, x_train: Tensor, y_train: Tensor, x_val: Tensor, y_val: Tensor) -> None:
        super().__init__()
        self.train, self.val = ((x_train, y_train), (x_val, y_val))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training samples, shuffled."""
        return DataLoader(TensorDataset(*self.train), shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation samples."""
        return DataLoader(TensorDataset(*self.val))
