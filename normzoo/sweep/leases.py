"""Which devices each job has: GPUs or processor cores, lent to one job at a time."""

import contextlib
import fcntl
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Device = TypeVar("Device", str, int)


@dataclass(frozen=True)
class Need:
    """What a job asks for: GPUs, or processor cores where it asks for none."""

    gpus: int = 0
    cores: int = 1


@dataclass(frozen=True)
class Lease:
    """What a job has.

    Args:
        gpus: As CUDA_VISIBLE_DEVICES names them.
        cores: By number; none for a job on GPUs, which may run on any.
        pinned: Whether the job stays on its cores: not where it shares them with another sweep.
    """

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    pinned: bool = False


class Leases:
    """The devices of this machine, and which jobs have them.

    Jobs start in their order, except that one for which there is room may overtake those in front that wait for more
    devices than are free. A waiting job is overtaken at most as often as there are devices; from then on all that
    becomes free is kept for it. So small jobs fill the gaps that big ones leave, and no big one waits for ever.

    Sweeps that run at the same time share a machine: a GPU that another has is waited for; cores that another has are
    used as well where no others are free, and the job is then not pinned to them.

    Args:
        gpus: As CUDA_VISIBLE_DEVICES names them, from `visible_gpus`.
        cores: By number.
        locks: What other sweeps have; None to leave them out of account.
    """

    def __init__(self, gpus: Sequence[str], cores: Sequence[int], locks: "Locks | None" = None) -> None:
        self.gpus, self.cores, self.locks = tuple(gpus), tuple(cores), locks
        self._lent: set[str | int] = set()
        self._overtaken: Counter[int] = Counter()

    def next(self, waiting: Iterable[tuple[int, Need]]) -> tuple[int, Lease] | None:
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

    def take(self, need: Need) -> Lease | None:
        """Lend what is needed; a job never needs more cores than there are."""
        if need.gpus:
            gpus = self._lock(self._free(self.gpus), need.gpus)
            if len(gpus) < need.gpus:
                self._unlock(gpus)
                return None
            lease = Lease(gpus=gpus)
        else:
            free, count = self._free(self.cores), min(need.cores, len(self.cores))
            if len(free) < count:
                return None
            locked = self._lock(free, count)
            shared = [core for core in free if core not in locked]
            cores = (*locked, *shared[: count - len(locked)])
            lease = Lease(cores=tuple(sorted(cores)), pinned=len(locked) == count)
        self._lent.update(lease.gpus, lease.cores)
        return lease

    def give_back(self, lease: Lease) -> None:
        """The job has ended."""
        self._lent.difference_update(lease.gpus, lease.cores)
        self._unlock((*lease.gpus, *lease.cores))

    def at_once(self, needs: Iterable[Need]) -> int:
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

    def _lock(self, devices: Sequence[Device], count: int) -> tuple[Device, ...]:
        """Up to `count` of these devices that no other sweep has."""
        locked: list[Device] = []
        for device in devices:
            if len(locked) < count and (self.locks is None or self.locks.take(device)):
                locked.append(device)
        return tuple(locked)

    def _unlock(self, devices: Iterable[str | int]) -> None:
        for device in devices:
            if self.locks is not None:
                self.locks.give_back(device)


class Locks:
    """The devices that sweeps of this user on this machine have: a locked file each, free again when its sweep is gone.

    Args:
        folder: Where the files are; the same for all sweeps.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / f"normzoo-devices-{os.getuid()}"
        self._held: dict[str | int, int] = {}

    def take(self, device: str | int) -> bool:
        """Whether the device is this sweep's now. Where no file can be locked, every device is."""
        name = f"gpu-{device.replace('/', '-')}" if isinstance(device, str) else f"core-{device}"
        descriptor = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert descriptor is not None
            os.close(descriptor)
            return False
        except OSError:
            if descriptor is not None:
                os.close(descriptor)
            return True
        self._held[device] = descriptor
        return True

    def give_back(self, device: str | int) -> None:
        """The device is free for others."""
        with contextlib.suppress(KeyError):
            os.close(self._held.pop(device))


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; counted without starting CUDA here."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if named is None else [name.strip() for name in named.split(",")]
    return names[:count]
