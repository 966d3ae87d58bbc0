"""Start the process that cells are forked from, before Hydra and Lightning are imported here.

A forked cell starts in milliseconds, where a new interpreter takes seconds to import torch. Unlike this process, the
server has run nothing, so that no threads and no CUDA state are forked.
"""

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

# What a cell would import itself: the first to unpickle Hydra's callbacks, the last for all the rest.
PRELOAD = ("normzoo.commands.report_callback", "normzoo.sweep.preload")
_SHOWS = ("-h", "--h", "-c", "--cfg", "-i", "--info")  # options of Hydra's that run nothing

_started = False  # whether this process has started a server here


def wants_server(arguments: Sequence[str]) -> bool:
    """Whether `normzoo train` with these arguments sweeps on this machine, as far as can be told without Hydra."""
    runs_none = any(argument.startswith(("hydra/launcher=", "sweep.dry_run=", *_SHOWS)) for argument in arguments)
    return bool({"-m", "--multirun"} & set(arguments)) and not runs_none


@contextmanager
def fork_server(preload: Sequence[str] = PRELOAD) -> Iterator[Any]:
    """Start the server, and stop it in the end; use the one that runs already, if any.

    Args:
        preload: Modules that the server imports, while this process goes on.
    """
    context = multiprocessing.get_context("forkserver")
    if _runs():
        yield context
        return
    _start_server(context, preload)
    try:
        yield context
    finally:
        stop_server()


def _runs() -> bool:
    server: Any = multiprocessing.forkserver._forkserver
    return server._forkserver_pid is not None


def _start_server(context: Any, preload: Sequence[str]) -> None:
    global _started
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # the server computes nothing, and each cell is given its own number
    # A Ctrl-C, or the end of the terminal, is for the sweep to act upon. Processes inherit what is blocked; starting
    # the resource tracker, which the server needs, would unblock it again.
    multiprocessing.resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
    try:
        make_sockets_folder()
        context.set_forkserver_preload(list(preload))
        multiprocessing.forkserver.ensure_running()
        _started = True
    except OSError as error:
        raise UserError(f"cannot start the process that cells are forked from: {error}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads


def forget_server() -> None:
    """Close, in this process, the descriptor that would keep the server alive when the sweep is gone."""
    server: Any = multiprocessing.forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def stop_server() -> None:
    """Stop the server if it was started here; one that the program itself has started keeps running."""
    global _started
    server: Any = multiprocessing.forkserver._forkserver
    if not _started:
        return
    _started = False
    if server._forkserver_pid is not None:
        # Asked to end, it would first finish its imports, and this process would wait for them.
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()
