"""Base of the data modules: options, batches, shards, and their checks."""

import logging
from abc import abstractmethod
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from normzoo.data.loader import BatchLoader, generator
from normzoo.errors import UserError

Split = Literal["train", "val"]

logger = logging.getLogger("normzoo")


def check_whole(option: str, value: int | None, least: int, *, optional: bool = False) -> None:
    """Check that an option is an integer of at least `least`."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        null = ", or null" if optional else ""
        raise UserError(f"data.{option}={value!r} must be an integer of at least {least}{null}.")


def balanced_order(labels: Tensor, seed: int) -> Tensor:
    """Return a random order of the samples whose every prefix has equally many of each class, while they last.

    Shape: labels (n) -> indices (n)
    """
    shuffled = torch.randperm(len(labels), generator=generator(seed))
    turn = torch.empty_like(shuffled)
    for label in labels.unique():
        same = (labels[shuffled] == label).nonzero().squeeze(1)
        turn[same] = torch.arange(len(same))
    return shuffled[turn.argsort(stable=True)]


def mixed(index: Tensor, seed: int) -> Tensor:
    """Return the same indices in random order.

    In balanced order every ten images would contain each class once, so that batch statistics would not be those of a
    random batch.
    """
    return index[torch.randperm(len(index), generator=generator(seed, 1))]


class ImageData(LightningDataModule):
    """Images and labels in a train and a val split.

    Args:
        batch_size: Training images per batch of one process, the batch that BatchNorm sees.
        eval_batch_size: Images per validation batch of one process.
        seed: Seed of the order of the training images, and of their augmentation.
        split_seed: Seed of the split.
        train_size, val_size: Images in the splits, balanced over classes as far as possible; None for all.
        drop_last: Whether to drop the last, short training batch of each epoch.

    Raises:
        UserError: If an option is out of range; in `setup`, if the data set is missing or too small, or the batch is
            larger than the training set.
    """

    name: str
    num_classes: int

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int = 500,
        seed: int = 0,
        split_seed: int = 0,
        train_size: int | None = None,
        val_size: int | None = None,
        drop_last: bool = True,
    ) -> None:
        super().__init__()
        check_whole("batch_size", batch_size, 1)
        check_whole("eval_batch_size", eval_batch_size, 1)
        check_whole("seed", seed, 0)
        check_whole("split_seed", split_seed, 0)
        check_whole("train_size", train_size, 1, optional=True)
        check_whole("val_size", val_size, 1, optional=True)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.split_seed = split_seed
        self.train_size = train_size
        self.val_size = val_size
        self.drop_last = drop_last
        self._logged_dropped = False

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image."""

    @property
    @abstractmethod
    def num_train(self) -> int:
        """Number of training images, after `survey` or `setup`."""

    @property
    @abstractmethod
    def num_val(self) -> int:
        """Number of validation images, after `survey` or `setup`."""

    @abstractmethod
    def loader(self, split: Split, batch_size: int, *, shuffle: bool = False, drop_last: bool = False) -> BatchLoader:
        """Return this rank's batches of a split.

        If shuffled, (seed, epoch) determines the order, for any number of processes. Training images are augmented only
        when shuffled.

        Args:
            split: "train" or "val".
            batch_size: Images per batch of one process.
            shuffle: Whether to use a new order each epoch.
            drop_last: Whether to keep full batches only.

        Raises:
            UserError: If `drop_last` is set and the global batch is larger than the split.
        """

    def survey(self) -> None:
        """Check that the images exist and suffice, and count them, without preparing them as `setup` does.

        Raises:
            UserError: As in `setup`.
        """
        self.setup("fit")

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.trainer.world_size if self.trainer is not None else 1

    def train_dataloader(self) -> BatchLoader:
        """Return shuffled training batches of this rank."""
        self._check_batch("train", self.batch_size)
        global_batch = self.batch_size * self.world_size
        left = self.num_train % global_batch
        if self.drop_last:
            self._log_dropped(left)
        elif 0 < left < self.world_size:
            raise UserError(
                f"{self.name}: the last batch of an epoch would have {left} of {self.num_train} training images, fewer "
                f"than the {self.world_size} processes. Set data.drop_last=true, or change train_size or batch size."
            )
        return self.loader("train", self.batch_size, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> BatchLoader:
        """Return all validation images of this rank's shard, in order."""
        return self.loader("val", self.eval_batch_size)

    def _check_batch(self, split: Split, batch_size: int) -> None:
        images = self.num_train if split == "train" else self.num_val
        world = self.world_size
        if batch_size * world > images:
            spread = f"{batch_size} on each of {world} processes = {batch_size * world}" if world > 1 else batch_size
            raise UserError(
                f"{self.name}: the batch ({spread}) is larger than the {images} images of {split}. "
                f"Lower the batch size or raise data.{split}_size."
            )

    def _check_sizes(self) -> None:
        """Check the sizes of both splits; called at the end of `setup`."""
        self._check_batch("train", self.batch_size)
        if self.num_val < self.world_size:
            raise UserError(
                f"{self.name}: {self.num_val} validation images are too few for {self.world_size} processes. "
                "Raise data.val_size or lower trainer.devices."
            )

    def _take_size(self, option: str, available: int, of: str) -> int:
        """Return the size that `option` asks for, or all there is."""
        asked: int | None = getattr(self, option)
        if asked is not None and asked > available:
            raise UserError(f"{self.name}: data.{option} is {asked}, but {of} {available} images. Lower it.")
        return available if asked is None else asked

    def _log_dropped(self, left: int) -> None:
        if left and self.rank == 0 and not self._logged_dropped:
            logger.info(
                "%s: dropping the last, short batch of each epoch: %d of %d training images (data.drop_last=false "
                "keeps it)",
                self.name,
                left,
                self.num_train,
            )
        self._logged_dropped = True
