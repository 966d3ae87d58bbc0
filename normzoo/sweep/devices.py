"""Which devices each job has: GPUs or processor cores, lent to one job at a time."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from normzoo.training.config import Resources

Device = TypeVar("Device", str, int)


@dataclass(frozen=True)
class Lease:
    """What a job has.

    Args:
        gpus: As CUDA_VISIBLE_DEVICES names them.
        cores: By number; none for a job on GPUs. They are counted, and the job may run on any.
    """

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


class Leases:
    """The devices of this machine, and which jobs have them.

    Jobs start in their order, except that one for which there is room may overtake those in front that wait for more
    devices than are free. A waiting job is overtaken at most as often as there are devices; from then on all that
    becomes free is kept for it. So small jobs fill the gaps that big ones leave, and no big one waits for ever.

    They are this sweep's alone: of another sweep at the same time nothing is known, and CUDA_VISIBLE_DEVICES keeps the
    GPUs of the two apart.

    Args:
        gpus: As CUDA_VISIBLE_DEVICES names them, from `visible_gpus`.
        cores: By number.
    """

    def __init__(self, gpus: Sequence[str], cores: Sequence[int]) -> None:
        self.gpus, self.cores = tuple(gpus), tuple(cores)
        self._lent: set[str | int] = set()
        self._overtaken: Counter[int] = Counter()

    def next(self, waiting: Iterable[tuple[int, Resources]]) -> tuple[int, Lease] | None:
        """The job that starts now, and its lease; None if those waiting must go on waiting.

        Args:
            waiting: The jobs, each by a number that stays its own, in their order.
        """
        if not self._free(self.gpus) and not self._free(self.cores):
            return None
        passed: dict[bool, list[int]] = {True: [], False: []}  # those that wait for GPUs, and for cores
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
        """Lend what is needed; a job never needs more cores than there are."""
        free_gpus, free_cores, cores = self._free(self.gpus), self._free(self.cores), min(need.cores, len(self.cores))
        if len(free_gpus) < need.gpus or (not need.gpus and len(free_cores) < cores):
            return None
        lease = Lease(gpus=tuple(free_gpus[: need.gpus]), cores=() if need.gpus else tuple(free_cores[:cores]))
        self._lent.update(lease.gpus, lease.cores)
        return lease

    def give_back(self, lease: Lease) -> None:
        """The job has ended."""
        self._lent.difference_update(lease.gpus, lease.cores)

    def at_once(self, needs: Iterable[Resources]) -> int:
        """How many of these jobs, from the first on, can run at the same time."""
        gpus, cores, count = len(self.gpus), len(self.cores), 0
        for need in needs:
            if need.gpus:
                gpus -= need.gpus
            else:
                cores -= min(need.cores, len(self.cores))
            if gpus < 0 or cores < 0:
                break
            count += 1
        return count

    def _free(self, devices: Sequence[Device]) -> list[Device]:
        return [device for device in devices if device not in self._lent]


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; counted without starting CUDA here."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if named is None else [name.strip() for name in named.split(",")]
    return names[:count]
