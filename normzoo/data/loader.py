"""Loaders whose batches depend only on (seed, epoch), not on the number of processes or of earlier passes."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from normzoo.data.order import by_class
from normzoo.errors import UserError

Augment = Callable[[Tensor, Tensor], Tensor]

# A chunk of this size stays in the CPU cache; larger ones are no faster.
CHUNK_BYTES = 2**20


class BatchLoader(Protocol):
    """An iterable of (x, y) with a length and an epoch, as `loader()` of every data module returns it."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`."""

    def skip(self, batches: int) -> None:
        """Make the next pass start after `batches` batches."""


def mix(*key: int) -> int:
    """Hash several numbers to a 64-bit seed; with seed + epoch, seed 0 at epoch 1 would equal seed 1 at epoch 0."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def generator(*key: int) -> torch.Generator:
    """Return a CPU generator seeded by several numbers."""
    return torch.Generator().manual_seed(mix(*key))


class EpochSampler(DistributedSampler[int]):
    """The samples of one rank in the order of one epoch.

        order = permutation(seed, epoch) of 0 .. n-1, or 0 .. n-1 itself without `shuffle`
        rank r of k takes order[r::k]

    With b samples per rank, the t-th batches of all ranks together are the t-th batch of k·b samples in one process.
    Every pass advances the epoch; `set_epoch` overrides it, and Lightning calls it before each epoch. It subclasses
    `DistributedSampler` so that Lightning knows that it is already sharded.

    Args:
        length: Number of samples n.
        batch_size: Samples per batch of one rank.
        shuffle: Whether to draw a new permutation each epoch.
        drop_last: Whether to drop the last n mod k·b samples of the order, so that every batch of every rank is full.
            Otherwise each sample is served exactly once, and ranks may differ by one in their number of batches.
        seed: Seed of the permutations.
        rank, world_size: r and k.
        reshuffle: False repeats the order of the first epoch.
        by_class: Labels (n) and a number of classes: shuffle so that the k·b samples of a batch have no more classes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        reshuffle: bool = True,
        by_class: tuple[Tensor, int] | None = None,
    ) -> None:
        super().__init__(
            range(length),  # type: ignore[arg-type]  # torch only ever takes its length
            num_replicas=world_size,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )
        self.length = length
        self.batch_size = batch_size
        self.global_batch = batch_size * world_size
        self.kept = length // self.global_batch * self.global_batch if drop_last else length
        self.reshuffle, self.by_class = reshuffle, by_class
        self.first = 0  # samples to skip in the next pass

    def skip(self, batches: int) -> None:
        """Make the next pass, and only that one, start after `batches` batches, to resume an interrupted one."""
        self.first = batches * self.batch_size

    def take(self) -> tuple[int, int, Tensor]:
        """Return the epoch, the start in it, and this rank's indices from there; advance to the next epoch."""
        epoch, first = self.epoch, self.first
        self.set_epoch(epoch + 1)
        self.first = 0
        draws = generator(self.seed, epoch if self.reshuffle else 0)
        if not self.shuffle:
            order = torch.arange(self.length)
        elif self.by_class:
            order = by_class(*self.by_class, self.global_batch, draws)
        else:
            order = torch.randperm(self.length, generator=draws)
        return epoch, first, order[: self.kept][self.rank :: self.num_replicas][first:]

    def __iter__(self) -> Iterator[Any]:
        yield from self.take()[2].tolist()

    def __len__(self) -> int:
        return len(range(self.rank, self.kept, self.num_replicas))


class TensorLoader:
    """Batches of tensors in memory, at a few microseconds each.

    Samples are gathered in chunks of many batches and returned as slices of the chunk, so that small batches need no
    gather of their own. Writing to a batch does not change the data set.

    Shape: x (n, C, *), y (n) -> batches (b, C, *), (b)

    Args:
        x, y: Samples and labels.
        batch_size: Samples per batch.
        classes_per_batch: Number of classes in a shuffled batch.
        options: Options of `EpochSampler`.
        at_once: Batches returned as one slice; the last slice of a pass may hold fewer.
        augment: Called as `augment(x, draws)` on each chunk; draws (len(x), `draws`) are uniform in [0, 1) and depend
            on (seed, epoch, position in the order) only, hence not on the number of ranks.
        draws: Draws per sample.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        *,
        classes_per_batch: int | None = None,
        at_once: int = 1,
        augment: Augment | None = None,
        draws: int = 3,
        **options: Any,
    ) -> None:
        self.x, self.y = x, y
        self.batch_size, self.at_once = batch_size, at_once
        self.batch_sampler = None  # Lightning reads it from every loader with a sampler
        self.augment, self.draws = augment, draws
        few = (y, classes_per_batch) if classes_per_batch else None
        self.sampler = EpochSampler(len(x), batch_size, by_class=few, **options)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`."""
        self.sampler.set_epoch(epoch)

    def skip(self, batches: int) -> None:
        """Make the next pass start after `batches` batches."""
        self.sampler.skip(batches)

    @property
    def batches(self) -> int:
        """Number of batches in a pass."""
        return -(-len(self.sampler) // self.batch_size)

    def __len__(self) -> int:
        return -(-self.batches // self.at_once)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator reads the epoch at the first batch: Lightning creates the iterator of a resumed epoch before it
        # calls set_epoch.
        epoch, first, index = self.sampler.take()
        batch = self.batch_size * self.at_once
        sample_bytes = self.x[0].numel() * self.x.element_size()
        chunk = max(1, CHUNK_BYTES // (sample_bytes * batch)) * batch
        draws = self._draws(epoch)[first:]
        for start in range(0, len(index), chunk):
            part = index[start : start + chunk]
            x, y = self.x[part], self.y[part]
            if self.augment is not None:
                x = self.augment(x, draws[start : start + chunk])
            yield from zip(x.split(batch), y.split(batch), strict=True)

    def _draws(self, epoch: int) -> Tensor:
        if self.augment is None:
            return torch.empty(0, self.draws)
        sampler = self.sampler
        draws = torch.rand(sampler.kept, self.draws, generator=generator(sampler.seed, epoch, 1))
        return draws[sampler.rank :: sampler.num_replicas]


class EpochDataLoader(DataLoader[Any]):
    """A DataLoader over an `EpochSampler`, with `set_epoch`, that starts at the first batch.

    A DataLoader with workers asks its sampler for indices in `iter()`, which Lightning calls before a resumed run sets
    its epoch; the generator waits for the first `next()`.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            # The message of a worker's exception includes its traceback.
            raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from None

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`."""
        self.sampler.set_epoch(epoch)  # type: ignore[attr-defined]

    def skip(self, batches: int) -> None:
        """Make the next pass start after `batches` batches."""
        self.sampler.skip(batches)  # type: ignore[attr-defined]
