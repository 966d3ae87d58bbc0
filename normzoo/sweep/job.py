"""A job, and what its own process does before the job begins."""

import contextlib
import faulthandler
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normzoo.sweep.cell_lock import CellLock, Inherited
from normzoo.sweep.devices import Lease
from normzoo.sweep.fork_server import forget_server
from normzoo.sweep.signals import FROM_TERMINAL
from normzoo.sweep.supervisor import Limits, supervise
from normzoo.training.config import Resources
from normzoo.training.gpu_memory import CELLS_PER_GPU
from normzoo.training.parent_process import LOG

ONE_CORE, UNLIMITED = Resources(), Limits()


@dataclass(frozen=True)
class Job:
    """One call in a process of its own.

    Args:
        target: An importable function.
        arguments: Of the target; they are pickled.
        log: The file that takes all that its processes print, including libraries and dying interpreters.
        need: The devices it asks for.
        limits: What it may take.
        environment: Variables beyond those of the fork server.
    """

    target: Callable[..., object]
    arguments: tuple[Any, ...]
    log: Path
    need: Resources = ONE_CORE
    limits: Limits = UNLIMITED
    environment: Mapping[str, str] = field(default_factory=dict)

    def orders(self, lease: Lease, lifeline: int, lock: CellLock | None) -> tuple[Any, ...]:
        """Make the arguments of `run`, with which the job runs on the devices of `lease` and sees no other GPUs."""
        return (
            pickle.dumps((self.target, self.arguments)),
            self.log,
            self.limits,
            {
                **self.environment,
                "CUDA_VISIBLE_DEVICES": ",".join(lease.gpus),
                CELLS_PER_GPU: str(lease.cells_per_gpu),
                LOG: str(self.log.absolute()),
            },
            Inherited(lifeline),
            Inherited(lock.descriptor) if lock else None,
        )


def run(
    call: bytes, path: Path, limits: Limits, environment: Mapping[str, str], lifeline: Inherited, lock: Inherited | None
) -> None:
    """Run a job in a process fresh from the fork server, with what its `orders` say.

    Args:
        call: The target and its arguments, pickled: to unpickle them may import anything.
        path: The log.
        limits: What the job may take.
        environment: Variables beyond those of the fork server.
        lifeline: Of the supervisor.
        lock: Held because it is inherited.
    """
    # Until the job's process has left the terminal's group, no Ctrl-C is meant for it, not even one that has come.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:  # the supervisor may cut the log, and what is appended then still goes to its end
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    except OSError:  # of a full disk, which the job will meet as well
        log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # whatever a model prints
    forget_server()
    supervise(limits, lifeline.descriptor, path)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on it is somebody's kill -INT
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an engine's worker that forked this process may have set another
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_TERMINAL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("500")  # out of memory, the kernel is to end this process before the sweep
        faulthandler.enable()  # a crash in native code leaves its place in the log
        os.environ.update(environment)
        target, arguments = pickle.loads(call)
        target(*arguments)
    except KeyboardInterrupt:  # end by the signal, so that the exit code tells of it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
