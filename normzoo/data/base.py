"""What all data modules share: options, batches, shards, and the checks on them."""

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
    """Refuse an option that is not a whole number of at least `least`."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        null = ", or null," if optional else ""
        raise UserError(f"data option {option} is {value!r}: a whole number of at least {least}{null} is expected.")


def balanced_order(labels: Tensor, seed: int) -> Tensor:
    """A random order of the samples in which each prefix holds as many of one class as of another, while they last.

    Shape: labels (n) -> indices (n)
    """
    shuffled = torch.randperm(len(labels), generator=generator(seed))
    turn = torch.empty_like(shuffled)
    for label in labels.unique():
        same = (labels[shuffled] == label).nonzero().squeeze(1)
        turn[same] = torch.arange(len(same))
    return shuffled[turn.argsort(stable=True)]


def mixed(index: Tensor, seed: int) -> Tensor:
    """The same indices in random order.

    A pass in balanced order would meet every class once in each ten images, and the statistics of such a batch are
    not those of a random one.
    """
    return index[torch.randperm(len(index), generator=generator(seed, 1))]


class ImageData(LightningDataModule):
    """Images and labels in a train and a val split.

    Args:
        batch_size: training images in a batch of one process, which is what BatchNorm sees.
        eval_batch_size: images in a validation batch of one process.
        seed: decides the order of the training images (and their augmentation, where there is one).
        split_seed: decides which images are in which split.
        train_size, val_size: images in the splits, with equal numbers of each class as far as it goes; None takes all.
        drop_last: leave out the last, short training batch of each epoch.

    Raises:
        UserError: an option out of range; in `setup`, a data set that is missing or smaller than what was asked for,
            or a batch larger than the training set.
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
        self._said_what_is_dropped = False

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""

    @property
    @abstractmethod
    def num_train(self) -> int:
        """Images in the training split, after `survey` or `setup`."""

    @property
    @abstractmethod
    def num_val(self) -> int:
        """Images in the validation split, after `survey` or `setup`."""

    @abstractmethod
    def loader(self, split: Split, batch_size: int, *, shuffle: bool = False, drop_last: bool = False) -> BatchLoader:
        """This rank's batches of a split.

        Shuffled, the order is decided by (seed, epoch), the same for every number of processes. Training images are
        augmented, where the data set has an augmentation, only when shuffled: a pass in order sees them as they are.

        Args:
            split: "train" or "val".
            batch_size: images in a batch of one process.
            shuffle: a new order each epoch.
            drop_last: full batches only.

        Raises:
            UserError: `drop_last` with a batch, over all processes, that is larger than the split.
        """

    def survey(self) -> None:
        """See what `setup` sees, that the images are there and enough, and count them; to make them ready is left out.

        Raises:
            UserError: As `setup`.
        """
        self.setup("fit")

    @property
    def rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def train_dataloader(self) -> BatchLoader:
        """Shuffled training batches of this rank."""
        self._check_batch("train", self.batch_size)
        global_batch = self.batch_size * self.world_size
        left = self.num_train % global_batch
        if self.drop_last:
            self._say_what_is_dropped(left)
        elif 0 < left < self.world_size:
            raise UserError(
                f"{self.name}: the last batch of an epoch would hold {left} of {self.num_train} training images, fewer "
                f"than the {self.world_size} processes. Set data.drop_last=true, or another train_size or batch size."
            )
        return self.loader("train", self.batch_size, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> BatchLoader:
        """All validation images of this rank's shard, in order."""
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
        """For the end of `setup`, so that nothing is built for a run that cannot be."""
        self._check_batch("train", self.batch_size)
        if self.num_val < self.world_size:
            raise UserError(
                f"{self.name}: {self.num_val} validation images cannot be spread over {self.world_size} processes. "
                "Raise data.val_size or lower trainer.devices."
            )

    def _take_size(self, option: str, available: int, of: str) -> int:
        """The size asked for by `option`, or all there is."""
        asked: int | None = getattr(self, option)
        if asked is not None and asked > available:
            raise UserError(f"{self.name}: data.{option} is {asked}, but {of} {available} images. Lower it.")
        return available if asked is None else asked

    def _say_what_is_dropped(self, left: int) -> None:
        if left and self.rank == 0 and not self._said_what_is_dropped:
            logger.info(
                "%s: the last short batch of each epoch is left out: %d of %d training images (data.drop_last=false "
                "keeps it)",
                self.name,
                left,
                self.num_train,
            )
        self._said_what_is_dropped = True
