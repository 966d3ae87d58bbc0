"""The process that jobs are forked from."""

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from normzoo.errors import UserError
from normzoo.sweep.signals import FROM_TERMINAL
from normzoo.training.machine import make_sockets_folder

_started = False  # whether the server of this process was started here


@contextmanager
def fork_server(preload: Sequence[str], environment: dict[str, str]) -> Iterator[Any]:
    """Start the server that jobs are forked from, having imported the modules `preload` once.

    A forked job starts in milliseconds where a new interpreter takes seconds to import torch. The server, unlike this
    process, has run nothing, so that no threads and no CUDA state are forked. Where one runs already, that one serves.

    Args:
        preload: Modules a server that is started here imports, while this process goes on.
        environment: Variables that it, and so every job, has beyond those of this process.
    """
    context = multiprocessing.get_context("forkserver")
    if _runs():
        yield context
        return
    _start_server(context, preload, environment)
    try:
        yield context
    finally:
        stop_server()


def _runs() -> bool:
    server: Any = multiprocessing.forkserver._forkserver
    return server._forkserver_pid is not None


def _start_server(context: Any, preload: Sequence[str], environment: dict[str, str]) -> None:
    global _started
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    # A Ctrl-C, or the end of the terminal, is for the sweep to act upon. Processes inherit what is blocked; to start
    # the tracker of resources that the server needs would unblock it again.
    multiprocessing.resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
    try:
        make_sockets_folder()
        context.set_forkserver_preload(list(preload))
        multiprocessing.forkserver.ensure_running()
        _started = True
    except OSError as error:
        raise UserError(f"the process that cells are forked from cannot be started: {error}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def forget_server() -> None:
    """Close what would have the fork server live on, for this process, when the sweep is gone."""
    server: Any = multiprocessing.forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def stop_server() -> None:
    """End the server, if one was started here; one of the program's own goes on."""
    global _started
    server: Any = multiprocessing.forkserver._forkserver
    if not _started:
        return
    _started = False
    if server._forkserver_pid is not None:
        # Told to end, it would first finish its imports, and this process would wait for them.
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()
