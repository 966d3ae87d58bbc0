"""A job, and what its own process does before and after it."""

import faulthandler
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normzoo.sweep.cell_lock import Claim, Inherited
from normzoo.sweep.devices import Lease
from normzoo.sweep.fork_server import forget_server
from normzoo.sweep.limits import Limits, offer_to_oom_killer
from normzoo.sweep.signals import FROM_TERMINAL
from normzoo.sweep.supervisor import enter
from normzoo.training.config import Resources
from normzoo.training.parent_process import LOG

ONE_CORE, UNLIMITED = Resources(), Limits()


@dataclass(frozen=True)
class Job:
    """One call in a process of its own.

    Args:
        target: An importable function.
        arguments: Of the target; they are pickled.
        log: The file that takes all its processes print, from libraries and dying interpreters as well.
        need: The devices it asks for.
        limits: What it may take.
        environment: Variables that it has beyond those of the fork server.
    """

    target: Callable[..., object]
    arguments: tuple[Any, ...]
    log: Path
    need: Resources = ONE_CORE
    limits: Limits = UNLIMITED
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Orders:
    """What a job's process is told before the job itself is unpickled, which may import anything."""

    call: bytes
    log: Path
    limits: Limits
    environment: Mapping[str, str]
    lifeline: Inherited
    claim: Inherited | None

    @classmethod
    def of(cls, job: Job, lease: Lease, lifeline: int, claim: Claim | None) -> "Orders":
        """To run `job` on what it was lent; it sees those GPUs alone."""
        return cls(
            call=pickle.dumps((job.target, job.arguments)),
            log=job.log,
            limits=job.limits,
            environment={**job.environment, "CUDA_VISIBLE_DEVICES": ",".join(lease.gpus), LOG: str(job.log.absolute())},
            lifeline=Inherited(lifeline),
            claim=Inherited(claim.descriptor) if claim else None,  # kept open by being inherited
        )


def run(orders: Orders) -> None:
    """Follow the orders, in a process fresh from the fork server."""
    # Until the job's process has left the terminal's group a Ctrl-C is not for it, one that has come already included.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        log = os.open(orders.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError:  # of a full disk, which the job will meet as well
        log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # whatever a model prints
    forget_server()
    enter(orders.limits, orders.lifeline.descriptor, orders.log)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on it is somebody's kill -INT
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # that of a worker which watches for it is no handler of the job's
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_TERMINAL)
        offer_to_oom_killer()
        faulthandler.enable()  # a crash in native code leaves its place in the log
        os.environ.update(orders.environment)
        target, arguments = pickle.loads(orders.call)
        target(*arguments)
    except KeyboardInterrupt:  # to end by the signal says so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
