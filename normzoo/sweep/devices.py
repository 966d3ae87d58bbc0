"""Lend devices to jobs: each processor core to one job at a time, each GPU to as many as share it."""

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from normzoo.errors import UserError
from normzoo.training.config import Resources
from normzoo.training.gpu_memory import CUDA_CONTEXT_GIB

MOST_CELLS_PER_GPU = 16  # chosen by `cells_that_fit`


@dataclass(frozen=True)
class Lease:
    """The devices that a job has.

    Args:
        gpus: As CUDA_VISIBLE_DEVICES names them.
        cores: By number; none for a job on GPUs. They are counted only, and the job may run on any.
        cells_per_gpu: The part of the memory of its GPUs that it has to keep to is one in so many.
    """

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    cells_per_gpu: int = 1


class Leases:
    """The devices of this machine, and which of them are lent.

    Jobs start in order, except that a job for which there is room may overtake those that wait for more devices than
    are free. A waiting job is overtaken at most as often as devices can be lent; from then on, all that becomes free is
    kept for it. So small jobs fill the gaps that large ones leave, and no large one waits for ever. A job gets the GPUs
    that the fewest others use.

    Two sweeps at the same time know nothing of each other; CUDA_VISIBLE_DEVICES keeps their GPUs apart.

    Args:
        gpus: As CUDA_VISIBLE_DEVICES names them, from `visible_gpus`.
        cores: By number.
        cells_per_gpu: How many jobs may share a GPU; may be changed while jobs run.
        limited: Whether each is to keep to its part of the memory.
    """

    def __init__(
        self, gpus: Sequence[str], cores: Sequence[int], cells_per_gpu: int = 1, *, limited: bool = True
    ) -> None:
        self.gpus, self.cores, self.cells_per_gpu, self.limited = tuple(gpus), tuple(cores), cells_per_gpu, limited
        self._lent: Counter[str | int] = Counter()
        self._overtaken: Counter[int] = Counter()

    def next(self, waiting: Iterable[tuple[int, Resources]]) -> tuple[int, Lease] | None:
        """Choose the job that starts now, and lend it its devices; None if all have to wait.

        Args:
            waiting: The number and the needs of each job, in order.
        """
        if not self._free_gpus() and not self._free_cores():
            return None
        passed: dict[bool, list[int]] = {True: [], False: []}  # jobs that wait for GPUs, and for cores
        kept: set[bool] = set()
        for number, need in waiting:
            on_gpus = need.gpus > 0
            lease = None if on_gpus in kept else self.take(need)
            if lease:
                self._overtaken.update(passed[on_gpus])
                return number, lease
            passed[on_gpus].append(number)
            if self._overtaken[number] >= (len(self.gpus) * self.cells_per_gpu if on_gpus else len(self.cores)):
                kept.add(on_gpus)
        return None

    def take(self, need: Resources) -> Lease | None:
        """Lend what a job needs, if it is free; no job needs more cores than there are."""
        free_gpus, free_cores, cores = self._free_gpus(), self._free_cores(), min(need.cores, len(self.cores))
        if len(free_gpus) < need.gpus or (not need.gpus and len(free_cores) < cores):
            return None
        if need.gpus:
            lease = Lease(tuple(free_gpus[: need.gpus]), cells_per_gpu=self.cells_per_gpu if self.limited else 1)
        else:
            lease = Lease(cores=tuple(free_cores[:cores]))
        self._lent.update((*lease.gpus, *lease.cores))
        return lease

    def give_back(self, lease: Lease) -> None:
        """Take back the devices of a job that has ended."""
        self._lent.subtract((*lease.gpus, *lease.cores))

    def at_once(self, needs: Iterable[Resources]) -> int:
        """Count how many of these jobs, in order, fit at the same time on devices of which none is lent."""
        free = Leases(self.gpus, self.cores, self.cells_per_gpu)
        return sum(1 for _ in itertools.takewhile(lambda need: free.take(need) is not None, needs))

    def _free_gpus(self) -> list[str]:
        free = [gpu for gpu in self.gpus if self._lent[gpu] < self.cells_per_gpu]
        return sorted(free, key=self._lent.__getitem__)

    def _free_cores(self) -> list[int]:
        return [core for core in self.cores if not self._lent[core]]


def cells_that_fit(peak_gib: float, gpu_gib: float, cores_per_gpu: int) -> int:
    """Choose how many cells share a GPU: each with a core of its own, and room for twice the memory measured so far.

    Args:
        peak_gib: The most memory that a process of a cell has taken.
        gpu_gib: The memory of the GPU.
        cores_per_gpu: Processor cores for each GPU; a small cell keeps one busy with launching kernels.
    """
    fit = int(gpu_gib / (2 * peak_gib + CUDA_CONTEXT_GIB))
    return max(1, min(fit, cores_per_gpu, MOST_CELLS_PER_GPU))


def visible_gpus() -> list[str]:
    """List the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them, without starting CUDA here."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if named is None else [name.strip() for name in named.split(",")]
    return names[:count]


def check_cells_per_gpu(value: object) -> None:
    """Check the option `cells_per_gpu` of a launcher.

    Raises:
        UserError: If it is neither 1 or more nor "auto".
    """
    if not (type(value) is int and value >= 1) and value != "auto":
        raise UserError(f"hydra.launcher.cells_per_gpu={value} must be 1 or more, or auto")
