"""How much of the machine others take while something is measured."""

import contextlib
import os
import time

import psutil

_TICKS_S = 0.1  # some ticks of each core's clocks


class Others:
    """From when it is made on: the cores busy with neither this process nor those it has started."""

    def __init__(self) -> None:
        self._before = _seconds()

    def cores(self) -> float:
        """How many, on average since then; 0 of less work than the ticks of the clocks tell apart."""
        (busy, own, clock), (busy_before, own_before, before) = _seconds(), self._before
        taken = busy - busy_before - own + own_before
        return taken / (clock - before) if taken > _TICKS_S else 0.0


def _seconds() -> tuple[float, float, float]:
    """Of all processors at work, of ours, and of the clock."""
    machine, ours = psutil.cpu_times(), os.times()
    waiting = machine.idle + getattr(machine, "iowait", 0.0)
    twice = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # is part of user, and of nice
    own = ours.user + ours.system + ours.children_user + ours.children_system
    for process in psutil.Process().children(recursive=True):  # those not waited for yet, such as compilers at work
        with contextlib.suppress(psutil.Error):
            own += sum(process.cpu_times()[:4])
    return sum(machine) - waiting - twice, own, time.perf_counter()
