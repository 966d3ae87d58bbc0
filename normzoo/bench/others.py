"""How much of the machine others take while something is measured."""

import os
import time

import psutil


class Others:
    """From when it is made on: the cores busy with neither this process nor those it has started and waited for."""

    def __init__(self) -> None:
        self._before = _seconds()

    def cores(self) -> float:
        """How many, on average since then."""
        (busy, own, clock), (busy_before, own_before, before) = _seconds(), self._before
        return max(0.0, busy - busy_before - own + own_before) / max(clock - before, 1e-3)


def _seconds() -> tuple[float, float, float]:
    """Of all processors at work, of ours, and of the clock."""
    machine, ours = psutil.cpu_times(), os.times()
    waiting = machine.idle + getattr(machine, "iowait", 0.0)
    twice = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # is part of user, and of nice
    own = ours.user + ours.system + ours.children_user + ours.children_system
    return sum(machine) - waiting - twice, own, time.perf_counter()
