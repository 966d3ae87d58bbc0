"""Measure how much of the machine other processes use."""

import contextlib
import os
import time

import psutil

_RESOLUTION_S = 0.1  # a few ticks of the CPU clocks


class OtherLoad:
    """Load of all processes but this one and its children, from construction on."""

    def __init__(self) -> None:
        self._before = _seconds()

    def cores(self) -> float:
        """Return the average number of cores that others kept busy; 0 if too little to measure."""
        (busy, own, clock), (busy_before, own_before, before) = _seconds(), self._before
        taken = busy - busy_before - own + own_before
        return taken / (clock - before) if taken > _RESOLUTION_S else 0.0


def _seconds() -> tuple[float, float, float]:
    """Return the busy seconds of all cores, those of this process and its children, and the wall clock."""
    machine, ours = psutil.cpu_times(), os.times()
    waiting = machine.idle + getattr(machine, "iowait", 0.0)
    twice = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # already counted in user and nice
    own = ours.user + ours.system + ours.children_user + ours.children_system
    for process in psutil.Process().children(recursive=True):  # `os.times` counts only children that have ended
        with contextlib.suppress(psutil.Error):
            own += sum(process.cpu_times()[:4])
    return sum(machine) - waiting - twice, own, time.perf_counter()
