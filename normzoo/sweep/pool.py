"""Jobs in processes of their own, a few at a time."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One call in a process of its own.

    Args:
        target: An importable function.
        arguments: Of the target; they are pickled.
        log: The file that takes all the process prints, from libraries and dying interpreters as well.
    """

    target: Callable[..., object]
    arguments: tuple[Any, ...]
    log: Path


@contextmanager
def fork_server(preload: Sequence[str], environment: dict[str, str]) -> Iterator[Any]:
    """Start the server that jobs are forked from, having imported the modules `preload` once.

    A forked job starts in milliseconds where a new interpreter takes seconds to import torch. The server, unlike this
    process, has run nothing, so that no threads and no CUDA state are forked.

    Args:
        preload: Modules the server imports, while this process goes on.
        environment: Variables that the server, and so every job, has beyond those of this process.
    """
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preload))
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    try:
        yield context
    finally:
        _stop_server()


def run_jobs(
    context: Any,
    jobs: Sequence[Job],
    n_jobs: int,
    on_start: Callable[[int], None],
    on_end: Callable[[int, int], None],
    on_wait: Callable[[], None] = lambda: None,
) -> None:
    """Run all jobs, at most `n_jobs` at a time, in order; a job that dies does not touch the others.

    Args:
        context: From `fork_server`.
        on_start: Called with a job's index when it starts.
        on_end: Called with a job's index and its process's exit code, negative for a signal.
        on_wait: Called about once a second while jobs run.
    """
    running: dict[int, BaseProcess] = {}
    waiting = list(range(len(jobs)))[::-1]
    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                index = waiting.pop()
                job = jobs[index]
                process = context.Process(target=_run, args=(job.target, job.arguments, job.log))
                process.start()
                running[index] = process
                on_start(index)
            wait([process.sentinel for process in running.values()], timeout=1.0)
            for index, process in list(running.items()):
                if not process.is_alive():
                    process.join()
                    del running[index]
                    on_end(index, process.exitcode or 0)
            on_wait()
    finally:
        _stop(list(running.values()))


def _stop_server() -> None:
    server: Any = multiprocessing.forkserver._forkserver
    if server._forkserver_pid is not None:
        # Told to end, it would first finish its imports, and this process would wait for them.
        os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()


def _run(target: Callable[..., object], arguments: tuple[Any, ...], log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    target(*arguments)


def _stop(processes: Sequence[BaseProcess], patience_s: float = 5.0) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + patience_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
