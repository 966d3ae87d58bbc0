"""Lend devices to jobs: each GPU or processor core to one job at a time."""

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from normzoo.training.config import Resources

Device = TypeVar("Device", str, int)


@dataclass(frozen=True)
class Lease:
    """The devices that a job has.

    Args:
        gpus: As CUDA_VISIBLE_DEVICES names them.
        cores: By number; none for a job on GPUs. They are counted only, and the job may run on any.
    """

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


class Leases:
    """The devices of this machine, and which of them are lent.

    Jobs start in order, except that a job for which there is room may overtake those that wait for more devices than
    are free. A waiting job is overtaken at most as often as there are devices; from then on, all that becomes free is
    kept for it. So small jobs fill the gaps that large ones leave, and no large one waits for ever.

    Two sweeps at the same time know nothing of each other; CUDA_VISIBLE_DEVICES keeps their GPUs apart.

    Args:
        gpus: As CUDA_VISIBLE_DEVICES names them, from `visible_gpus`.
        cores: By number.
    """

    def __init__(self, gpus: Sequence[str], cores: Sequence[int]) -> None:
        self.gpus, self.cores = tuple(gpus), tuple(cores)
        self._lent: set[str | int] = set()
        self._overtaken: Counter[int] = Counter()

    def next(self, waiting: Iterable[tuple[int, Resources]]) -> tuple[int, Lease] | None:
        """Choose the job that starts now, and lend it its devices; None if all have to wait.

        Args:
            waiting: The number and the needs of each job, in order.
        """
        if not self._free(self.gpus) and not self._free(self.cores):
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
            if self._overtaken[number] >= len(self.gpus if on_gpus else self.cores):
                kept.add(on_gpus)
        return None

    def take(self, need: Resources) -> Lease | None:
        """Lend what a job needs, if it is free; no job needs more cores than there are."""
        free_gpus, free_cores, cores = self._free(self.gpus), self._free(self.cores), min(need.cores, len(self.cores))
        if len(free_gpus) < need.gpus or (not need.gpus and len(free_cores) < cores):
            return None
        lease = Lease(gpus=tuple(free_gpus[: need.gpus]), cores=() if need.gpus else tuple(free_cores[:cores]))
        self._lent.update(lease.gpus, lease.cores)
        return lease

    def give_back(self, lease: Lease) -> None:
        """Take back the devices of a job that has ended."""
        self._lent.difference_update(lease.gpus, lease.cores)

    def at_once(self, needs: Iterable[Resources]) -> int:
        """Count how many of these jobs, in order, fit at the same time on devices of which none is lent."""
        free = Leases(self.gpus, self.cores)
        return sum(1 for _ in itertools.takewhile(lambda need: free.take(need) is not None, needs))

    def _free(self, devices: Sequence[Device]) -> list[Device]:
        return [device for device in devices if device not in self._lent]


def visible_gpus() -> list[str]:
    """List the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them, without starting CUDA here."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if named is None else [name.strip() for name in named.split(",")]
    return names[:count]
