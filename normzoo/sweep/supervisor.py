"""Supervise a job: enforce its limits, and let no process outlive it.

    sweep
    └── fork server          has imported torch and Lightning
        └── supervisor       a session of its own: no Ctrl-C from the terminal reaches what is below
            └── job          a process group of its own
                └── ...      data-parallel ranks, data workers

Nothing below a supervisor outlives the sweep, however the sweep ends. The supervisor watches a pipe that only the sweep
holds open, which works everywhere. On Linux the kernel also signals each process when its parent dies, so that a job
ends with its supervisor and the ranks with their job; orphans of the job become the supervisor's children, which it
ends.
"""

import contextlib
import json
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import NoReturn

import psutil

from normzoo.training.parent_process import SET_CHILD_SUBREAPER, SET_PDEATHSIG, die_with_parent, prctl

GIB = 2**30
MAX_LOG = 2**24  # bytes of a log that are kept


@dataclass(frozen=True)
class Limits:
    """What a job may take.

    Args:
        seconds: From its start.
        memory: GiB of private memory of all its processes together; what they share, such as libraries, is not counted.
        silence: Seconds without a sign of life: something printed, or `give_sign_of_life`.
    """

    seconds: float | None = None
    memory: float | None = None
    silence: float | None = None


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Args:
        code: The exit code of its process, negative for a signal.
        cause: `timeout`, `memory` or `silence` for a limit, `kernel` for the kernel's out-of-memory killer, `stopped`
            if the supervisor was told to stop or the sweep was gone; None if the process ended by itself or by a
            signal.
        seconds: How long it took.
        memory: The most GiB of private memory seen; 0 without a limit.
        oom_kills: How many processes on this machine the kernel ended for lack of memory while the job ran.
    """

    code: int
    cause: str | None = None
    seconds: float = 0.0
    memory: float = 0.0
    oom_kills: int = 0


def supervise(limits: Limits, lifeline: int, log: Path) -> None:
    """Split this process in two: the job's, in which this returns, and its supervisor, in which it never does.

    Args:
        limits: Of the job.
        lifeline: The writing end of a pipe. Every process of the job holds it open, so that the reading end is at its
            end when none is left; the supervisor writes the job's `Ending` into it.
        log: The file that the job prints into.
    """
    os.setsid()
    prctl(SET_CHILD_SUBREAPER, 1)
    prctl(SET_PDEATHSIG, signal.SIGTERM)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGCHLD)}
    signal.set_wakeup_fd(waker)
    supervisor = os.getpid()
    job = os.fork()
    if job:
        with contextlib.suppress(OSError):  # the job has done it
            os.setpgid(job, job)
        _supervise(job, limits, wake, lifeline, log)
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)
    os.close(wake)
    os.close(waker)
    os.setpgid(0, 0)
    die_with_parent(supervisor)
    _let_forked_children_die_too()


def _let_forked_children_die_too() -> None:
    forked_by: list[int | None] = [None]

    def before() -> None:
        # To the kernel the parent is the thread that forked, which may end long before its process does.
        forked_by[0] = os.getpid() if threading.current_thread() is threading.main_thread() else None

    def in_child() -> None:
        if forked_by[0] is not None:
            die_with_parent(forked_by[0])

    os.register_at_fork(before=before, after_in_child=in_child)


def _supervise(job: int, limits: Limits, wake: int, lifeline: int, log: Path) -> NoReturn:
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
        # Skip what multiprocessing does at the end of a process: that is the job's to do.
        os._exit(code)


def _watch(job: int, limits: Limits, wake: int, log: Path) -> Ending:
    started, oom_kills, memory = time.monotonic(), count_oom_kills(), 0.0
    last_sign, silent_since = 0, started
    sweep = parent_process()
    assert sweep is not None
    cause: str | None = None
    code: int | None = None
    while code is None and cause is None:
        patience = 1.0 if limits.memory is None else 0.25
        if limits.seconds is not None:
            patience = min(patience, max(0.0, started + limits.seconds - time.monotonic()) + 0.001)
        ready = wait([wake, sweep.sentinel], patience)
        signals = os.read(wake, 4096) if wake in ready else b""
        code, _ = _reap(job)
        now, sign = time.monotonic(), _look_at(log)
        if sign != last_sign:
            last_sign, silent_since = sign, now
        if code is not None:
            break
        if limits.memory is not None:
            memory = max(memory, memory_below())
        if sweep.sentinel in ready or signal.SIGTERM in signals:
            cause = "stopped"
        elif limits.seconds is not None and now - started > limits.seconds:
            cause = "timeout"
        elif limits.silence is not None and now - silent_since > limits.silence + 1.0:  # a sign is given once a second
            cause = "silence"
        elif limits.memory is not None and memory > limits.memory:
            cause = "memory"
    seconds = time.monotonic() - started
    code = _end_all(job, code)
    _look_at(log)
    oom_kills = count_oom_kills() - oom_kills
    if cause is None and code == -signal.SIGKILL and oom_kills:
        cause = "kernel"
    return Ending(code, cause, round(seconds, 3), round(memory, 3), oom_kills)


def _look_at(log: Path) -> int:
    """Return when the log was last written, and cut out the middle of one that has grown too long."""
    try:
        found = log.stat()
        if found.st_size > MAX_LOG:
            with open(log, "r+b") as file:
                file.seek(-MAX_LOG // 4, os.SEEK_END)
                end = file.read()
                file.seek(MAX_LOG // 4)
                file.write(f"\n... {found.st_size - MAX_LOG // 2:,} bytes left out ...\n".encode() + end)
                file.truncate()
        return found.st_mtime_ns
    except OSError:
        return 0


def _reap(job: int) -> tuple[int | None, bool]:
    """Reap the children that have ended; return the job's exit code, if it was one, and whether any are left."""
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
    """End every process below this one, wait until none is left, and return the job's exit code."""
    with contextlib.suppress(OSError):
        os.killpg(job, signal.SIGKILL)
    while True:
        ended, any_left = _reap(job)
        code = ended if code is None else code
        if not any_left:
            return -signal.SIGKILL if code is None else code
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.005)


def memory_below() -> float:
    """Return the GiB of private memory of the processes below this one."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().uss
    return total / GIB


def count_oom_kills(root: Path = Path("/")) -> int:
    """Count the processes that the kernel has ended for lack of memory, in this control group or on this machine.

    Only the difference between two calls has a meaning; 0 where the kernel does not count them.

    Args:
        root: Of the file system.
    """
    for path in _counters(root):
        with contextlib.suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE):
                return int(found[1])
    return 0


def _counters(root: Path) -> Iterator[Path]:
    groups = root / "sys/fs/cgroup"
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers == "":
            yield groups / group.strip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            yield groups / "memory" / group.strip("/") / "memory.oom_control"
    yield root / "proc/vmstat"
