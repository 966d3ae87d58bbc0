"""Jobs in processes of their own, as many at a time as there are devices for them."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from normzoo.errors import UserError
from normzoo.sweep.cell_lock import Claim
from normzoo.sweep.devices import Lease, Leases
from normzoo.sweep.job import Job, Orders, run
from normzoo.sweep.limits import kill_with
from normzoo.sweep.signals import FROM_TERMINAL, Stop
from normzoo.sweep.supervisor import Ending
from normzoo.training.parent_process import LOG

PATIENCE_S = 5.0  # for a keeper that was told to end its job
MOST_SAID = 2**16  # bytes kept of what comes on a lifeline, where a job may write as well


class Elsewhere(Enum):
    """Why a job is not run here, now."""

    RUNS = "another sweep runs it"
    DONE = "another sweep has run it"


@dataclass
class _Running:
    process: BaseProcess
    lifeline: int
    lease: Lease
    claim: Claim | None
    log: Path
    said: bytes = b""
    gone_since: float | None = None


class Pool:
    """Runs jobs until all have ended or it is told to stop; a job that dies does not touch the others.

    Args:
        context: From `fork_server`.
        leases: Of the devices.
        n_jobs: So many jobs run at once at most; None for as many as there are devices for.
        stop: What signals ask for.
        claim: Called with a job's index before it starts: the right to run it, or why not; None where it needs none.
        on_start: Called with a job's index when it starts.
        on_end: Called with a job's index and how it ended, before its claim is given back; not for stopped jobs.
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
        claim: Callable[[int], Claim | Elsewhere | None] = lambda index: None,
        on_start: Callable[[int], None] = lambda index: None,
        on_end: Callable[[int, Ending], None] = lambda index, ending: None,
        on_fail: Callable[[int, str], None] = lambda index, reason: None,
        on_elsewhere: Callable[[int], None] = lambda index: None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.context, self.leases, self.n_jobs, self.stop = context, leases, n_jobs, stop
        self.claim, self.on_start, self.on_end = claim, on_start, on_end
        self.on_fail, self.on_elsewhere, self.on_wait = on_fail, on_elsewhere, on_wait
        self.running: dict[int, _Running] = {}
        self.elsewhere: dict[int, float] = {}  # jobs that another sweep runs, and when to look again

    def run(self, jobs: Sequence[Job]) -> list[int]:
        """Run them, and give the indices of those that have not ended: stopped, or never started."""
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
        """Start the job whose turn it is, if any, and say whether to ask again."""
        if self.n_jobs is not None and len(self.running) >= self.n_jobs:
            return False
        now = time.monotonic()
        chosen = self.leases.next((i, jobs[i].need) for i in waiting if self.elsewhere.get(i, now) <= now)
        if chosen is None:
            return False
        index, lease = chosen
        try:
            claim = self.claim(index)
            if claim is Elsewhere.RUNS:
                self.elsewhere[index] = now + 1.0
                return True
            self.elsewhere.pop(index, None)
            if isinstance(claim, Elsewhere):
                del waiting[index]
                self.on_elsewhere(index)
                return True
            self.running[index] = self._start(jobs[index], lease, claim)
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

    def _start(self, job: Job, lease: Lease, claim: Claim | None) -> _Running:
        lifeline, end = os.pipe()
        try:
            process = self._fork(Orders.of(job, lease, end, claim))
        except BaseException:
            os.close(lifeline)
            if claim:
                claim.give_back()
            raise
        finally:
            os.close(end)
        return _Running(process, lifeline, lease, claim, job.log)

    def _fork(self, orders: Orders, tries: int = 20) -> BaseProcess:
        for last_try in (*[False] * (tries - 1), True):
            process: BaseProcess = self.context.Process(target=run, args=(orders,))
            # Inherited by what is started here, be it another fork server: no Ctrl-C ends it before `run` says so.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
            try:
                process.start()
                break
            except (OSError, EOFError):  # the fork server has died; once it is gone, a try starts another
                if last_try:
                    raise
                time.sleep(0.1)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return process

    def _wait(self, timeout: float = 1.0) -> None:
        """Until a job ends, a signal comes or the time is over; then see to the jobs that have ended."""
        jobs = list(self.running.items())
        keepers = [job.process.sentinel for _, job in jobs if job.gone_since is None]
        ready = set(wait([self.stop.descriptor, *(job.lifeline for _, job in jobs), *keepers], timeout))
        for index, job in jobs:
            if job.process.sentinel in ready:
                job.gone_since = time.monotonic()
            said = os.read(job.lifeline, 4096) if job.lifeline in ready else None
            job.said = (job.said + (said or b""))[-MOST_SAID:]  # of which the end counts
            # A process that has escaped from a keeper that was killed may hold the line for ever.
            if said == b"" or (job.gone_since and time.monotonic() - job.gone_since > PATIENCE_S):
                self._end(index)

    def _end(self, index: int, tell: bool = True) -> None:
        job = self.running.pop(index)
        job.process.join()
        os.close(job.lifeline)
        self.leases.give_back(job.lease)
        ending = _told(job.said)
        if ending is None:  # the keeper itself was killed, and programs that the job has started know nothing of it
            kill_with(LOG, str(job.log.absolute()))
            ending = Ending(job.process.exitcode or 0)
        try:
            if tell:
                self.on_end(index, ending)
        finally:
            if job.claim:
                job.claim.give_back()

    def _end_running(self) -> list[int]:
        """Stop what runs; its jobs' indices."""
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


def _told(said: bytes) -> Ending | None:
    """What a keeper has told of its job, in the last line; None if it has not, whatever a job has written there."""
    try:
        return Ending(**json.loads(said.splitlines()[-1]))
    except (IndexError, ValueError, TypeError, RecursionError):
        return None
