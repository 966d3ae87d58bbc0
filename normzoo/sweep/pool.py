"""Run jobs in processes of their own, as many at a time as there are devices for them."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from normzoo.errors import UserError
from normzoo.sweep.cell_lock import CellLock, Elsewhere
from normzoo.sweep.devices import Lease, Leases
from normzoo.sweep.job import Job, run
from normzoo.sweep.signals import FROM_TERMINAL, Stop
from normzoo.sweep.supervisor import Ending
from normzoo.training.parent_process import LOG

PATIENCE_S = 5.0  # for a supervisor that was told to end its job
MAX_MESSAGE = 2**16  # bytes kept of what comes on a lifeline, where a job may write as well
FORK_TRIES = 20


@dataclass
class _Running:
    process: BaseProcess
    lifeline: int
    lease: Lease
    lock: CellLock | None
    log: Path
    message: bytes = b""
    gone_since: float | None = None


class Pool:
    """Runs jobs until all have ended or it is told to stop; a job that dies does not touch the others.

    Args:
        context: From `fork_server`.
        leases: Of the devices.
        n_jobs: The most jobs to run at once; None for as many as there are devices for.
        stop: What signals ask for.
        lock: Called with a job's index before it starts, for the right to run it or why not; None if it needs none.
        on_start: Called with a job's index when it starts.
        on_end: Called with a job's index and how it ended, before its lock is released; not for stopped jobs.
        on_fail: Called with the index of a job that could not be started, and why.
        on_elsewhere: Called with the index of a job that another sweep has run.
        on_wait: Called about once a second while jobs run.
    """

    def __init__(
        self,
        context: Any,
        leases: Leases,
        n_jobs: int | None,
        stop: Stop,
        *,
        lock: Callable[[int], CellLock | Elsewhere | None] = lambda index: None,
        on_start: Callable[[int], None] = lambda index: None,
        on_end: Callable[[int, Ending], object] = lambda index, ending: None,
        on_fail: Callable[[int, str], object] = lambda index, reason: None,
        on_elsewhere: Callable[[int], None] = lambda index: None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.context, self.leases, self.n_jobs, self.stop = context, leases, n_jobs, stop
        self.lock, self.on_start, self.on_end = lock, on_start, on_end
        self.on_fail, self.on_elsewhere, self.on_wait = on_fail, on_elsewhere, on_wait
        self.running: dict[int, _Running] = {}
        self.elsewhere: dict[int, float] = {}  # jobs that another sweep runs, and when to look again

    def run(self, jobs: Sequence[Job]) -> list[int]:
        """Run the jobs, and return the indices of those that have not ended: stopped, or never started."""
        waiting = dict.fromkeys(range(len(jobs)))
        try:
            while waiting or self.running:
                self.stop.look()
                if self.stop.now or (self.stop.draining and not self.running):
                    break
                while not self.stop.draining and self._start_one(jobs, waiting):
                    pass
                self._wait()
                self.on_wait()
        finally:
            stopped = self._end_running()
        return sorted({*waiting, *stopped})

    def _start_one(self, jobs: Sequence[Job], waiting: dict[int, None]) -> bool:
        """Start the job whose turn it is, if any, and tell whether to ask again."""
        if self.n_jobs is not None and len(self.running) >= self.n_jobs:
            return False
        now = time.monotonic()
        chosen = self.leases.next((i, jobs[i].need) for i in waiting if self.elsewhere.get(i, now) <= now)
        if chosen is None:
            return False
        index, lease = chosen
        try:
            lock = self.lock(index)
            if lock is Elsewhere.RUNS:
                self.elsewhere[index] = now + 1.0
                return True
            self.elsewhere.pop(index, None)
            if isinstance(lock, Elsewhere):
                del waiting[index]
                self.on_elsewhere(index)
                return True
            self.running[index] = self._start(jobs[index], lease, lock)
            del waiting[index]
        except (UserError, OSError, EOFError) as error:
            waiting.pop(index, None)
            self.on_fail(index, str(error) if isinstance(error, UserError) else f"it could not be started: {error}")
            return True
        finally:
            if index not in self.running:
                self.leases.give_back(lease)
        self.on_start(index)
        return True

    def _start(self, job: Job, lease: Lease, lock: CellLock | None) -> _Running:
        lifeline, end = os.pipe()
        try:
            process = self._fork(job.orders(lease, end, lock))
        except BaseException:
            os.close(lifeline)
            if lock:
                lock.release()
            raise
        finally:
            os.close(end)
        return _Running(process, lifeline, lease, lock, job.log)

    def _fork(self, orders: tuple[Any, ...]) -> BaseProcess:
        for tries_left in reversed(range(FORK_TRIES)):
            process: BaseProcess = self.context.Process(target=run, args=orders)
            # Inherited by what is started here, be it another fork server: no Ctrl-C ends it before `run` allows it.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
            try:
                process.start()
                break
            except (OSError, EOFError):  # the fork server has died; once it is gone, a try starts another
                if not tries_left:
                    raise
                time.sleep(0.1)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return process

    def _wait(self, timeout: float = 1.0) -> None:
        """Wait until a job ends, a signal comes or the time is over, and see to the jobs that have ended."""
        jobs = list(self.running.items())
        supervisors = [job.process.sentinel for _, job in jobs if job.gone_since is None]
        ready = set(wait([self.stop.descriptor, *(job.lifeline for _, job in jobs), *supervisors], timeout))
        for index, job in jobs:
            if job.process.sentinel in ready:
                job.gone_since = time.monotonic()
            message = os.read(job.lifeline, 4096) if job.lifeline in ready else None
            job.message = (job.message + (message or b""))[-MAX_MESSAGE:]  # of which the end counts
            # A process that has escaped from a supervisor that was killed may hold the line for ever.
            if message == b"" or (job.gone_since and time.monotonic() - job.gone_since > PATIENCE_S):
                self._end(index)

    def _end(self, index: int, tell: bool = True) -> None:
        job = self.running.pop(index)
        job.process.join()
        os.close(job.lifeline)
        self.leases.give_back(job.lease)
        ending = _parse_ending(job.message)
        if ending is None:  # the supervisor itself was killed, and programs that the job has started know nothing of it
            _kill_with(LOG, str(job.log.absolute()))
            ending = Ending(job.process.exitcode or 0)
        try:
            if tell:
                self.on_end(index, ending)
        finally:
            if job.lock:
                job.lock.release()

    def _end_running(self) -> list[int]:
        """Stop the running jobs, and return their indices."""
        stopped = list(self.running)
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for job in self.running.values():
                if job.gone_since is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(job.process.pid or 0, signal_number)
            deadline = time.monotonic() + PATIENCE_S
            while self.running and time.monotonic() < deadline:
                lifelines = {job.lifeline: index for index, job in self.running.items()}
                for lifeline in wait(list(lifelines), deadline - time.monotonic()):
                    assert isinstance(lifeline, int)
                    if not os.read(lifeline, 4096):
                        self._end(lifelines[lifeline], tell=False)
        for index in list(self.running):
            self._end(index, tell=False)
        return stopped


def _parse_ending(message: bytes) -> Ending | None:
    """Read what a supervisor has reported, in the last line; None if it has not, whatever a job has written there."""
    try:
        return Ending(**json.loads(message.splitlines()[-1]))
    except (IndexError, ValueError, TypeError, RecursionError):
        return None


def _kill_with(variable: str, value: str) -> None:
    """Kill all processes that started with this variable in their environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value:
                process.kill()
