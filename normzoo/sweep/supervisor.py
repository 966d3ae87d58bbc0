"""The process that stands between a sweep and a job: it watches the job's limits and lets no process outlive it.

    sweep
    └── fork server          has imported torch and Lightning
        └── keeper           a session of its own: no Ctrl-C from the terminal reaches what is below
            └── job          a process group of its own
                └── ...      data-parallel ranks, workers that load data

Nothing below a keeper outlives the sweep, however the sweep ends. The keeper watches a pipe that only the sweep holds
open; that works everywhere. On Linux, besides, the kernel signals each process when its parent dies, so that a job ends
with its keeper and the ranks with their job; and orphans of the job become the keeper's children, which it ends.
"""

import contextlib
import json
import os
import signal
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import NoReturn

from normzoo.sweep.limits import Limits, kernel_oom_kills, kill_below, memory_below
from normzoo.training.parent_process import SET_CHILD_SUBREAPER, SET_PDEATHSIG, die_with_parent, prctl


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Args:
        code: The exit code of its process, negative for a signal.
        cause: `timeout`, `memory` or `silence` for a limit, `kernel` for its out-of-memory killer, `stopped` if
            the keeper was told to stop or the sweep was gone; None if the process ended by itself or by a signal.
        seconds: It took.
        memory: The most GiB it was seen to have for itself; 0 where no limit made it worth looking.
        oom_kills: Processes here that the kernel ended for want of memory while the job ran.
    """

    code: int
    cause: str | None = None
    seconds: float = 0.0
    memory: float = 0.0
    oom_kills: int = 0


def enter(limits: Limits, lifeline: int, log: Path) -> None:
    """Split this process in two: the job's, in which this returns, and its keeper, in which it never does.

    Args:
        limits: What the job may take.
        lifeline: A pipe's end for writing. Every process of the job holds it open, so that its other end is at its end
            when none is left; the keeper writes the job's `Ending` into it.
        log: Where what the job prints goes.
    """
    os.setsid()
    prctl(SET_CHILD_SUBREAPER, 1)
    prctl(SET_PDEATHSIG, signal.SIGTERM)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGCHLD)}
    signal.set_wakeup_fd(waker)
    keeper = os.getpid()
    job = os.fork()
    if job:
        with contextlib.suppress(OSError):  # the job has done it
            os.setpgid(job, job)
        _keep(job, limits, wake, lifeline, log)
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)
    os.close(wake)
    os.close(waker)
    os.setpgid(0, 0)
    die_with_parent(keeper)
    _forked_children_die_too()


def _forked_children_die_too() -> None:
    forked_by: list[int | None] = [None]

    def before() -> None:
        # The kernel means the thread that forked; a thread may end long before its process does.
        forked_by[0] = os.getpid() if threading.current_thread() is threading.main_thread() else None

    def in_child() -> None:
        if forked_by[0] is not None:
            die_with_parent(forked_by[0])

    os.register_at_fork(before=before, after_in_child=in_child)


def _keep(job: int, limits: Limits, wake: int, lifeline: int, log: Path) -> NoReturn:
    code = 1
    try:
        ending = _watch(job, limits, wake, log)
        os.write(lifeline, f"\n{json.dumps(asdict(ending))}\n".encode())  # the job may have written there as well
        code = 0
    except BaseException:
        with contextlib.suppress(OSError):
            os.killpg(job, signal.SIGKILL)
            os.write(2, traceback.format_exc().encode())  # into the job's log
    finally:
        # Past all that multiprocessing does when a process ends: that is the job's to do.
        os._exit(code)


def _watch(job: int, limits: Limits, wake: int, log: Path) -> Ending:
    begun, oom_kills, memory = time.monotonic(), kernel_oom_kills(), 0.0
    silent_since, first_sign = begun, _changed(log)
    last_sign = first_sign
    sweep = parent_process()
    assert sweep is not None
    cause: str | None = None
    code: int | None = None
    while code is None and cause is None:
        ready = wait([wake, sweep.sentinel], _patience(limits, begun))
        signals = os.read(wake, 4096) if wake in ready else b""
        code, _ = _reap(job)
        if (sign := _changed(log)) != last_sign:
            silent_since, last_sign = time.monotonic(), sign
        if code is None and (sweep.sentinel in ready or signal.SIGTERM in signals):
            cause = "stopped"
        elif code is None and limits.seconds is not None and time.monotonic() - begun > limits.seconds:
            cause = "timeout"
        elif (
            code is None
            and limits.silence is not None
            and last_sign != first_sign
            and (
                time.monotonic() - silent_since > limits.silence + 1.0  # signs come once a second
            )
        ):
            cause = "silence"
        elif code is None and limits.memory is not None:
            memory = max(memory, memory_below())
            cause = "memory" if memory > limits.memory else None
    seconds = time.monotonic() - begun
    code = _end_all(job, code)
    oom_kills = kernel_oom_kills() - oom_kills
    if cause is None and code == -signal.SIGKILL and oom_kills:
        cause = "kernel"
    return Ending(code, cause, round(seconds, 3), round(memory, 3), oom_kills)


def _patience(limits: Limits, begun: float) -> float:
    waits = [3600.0]  # the kernel waits for some weeks at most
    if limits.seconds is not None:
        waits.append(max(0.0, begun + limits.seconds - time.monotonic()) + 0.001)
    if limits.memory is not None:
        waits.append(0.25)
    if limits.silence is not None:
        waits.append(1.0)
    return min(waits)


def _changed(log: Path) -> int:
    try:
        return log.stat().st_mtime_ns
    except OSError:
        return 0


def _reap(job: int) -> tuple[int | None, bool]:
    """Take leave of the children that have ended: the job's exit code, if it was one, and whether any are left."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code, False
        if pid == 0:
            return code, True
        if pid == job:
            code = os.waitstatus_to_exitcode(status)


def _end_all(job: int, code: int | None) -> int:
    """End every process below this one and wait until none is left; the job's exit code."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(job, signal.SIGKILL)
    while True:
        ended, any_left = _reap(job)
        code = ended if code is None else code
        if not any_left:
            return -signal.SIGKILL if code is None else code
        kill_below()
        time.sleep(0.005)
