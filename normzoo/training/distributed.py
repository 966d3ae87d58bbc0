"""The ranks of a cell, its data-parallel processes: under torchrun's agent, be it the cell's or one the user started.

A cell on several devices forks its ranks, on GPUs spawns them, under an agent of its own in the cell's process. Nothing
runs the command line again, and nothing of a rank's environment stays behind for the next cell. An agent sees at once
that a rank has died, ends the others, and knows which one it was.

Several machines are one program that the user starts on each of them, in a folder that all of them share; for two
machines of eight GPUs each

    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=<first machine>:29500 --rdzv-id=<name> \\
        --no-python normzoo train trainer.num_nodes=2 trainer.devices=8 hydra.run.dir=<shared folder>/<name> ...
"""

import contextlib
import logging
import logging.config
import os
import re
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from normzoo.errors import UserError
from normzoo.training.parent_death import die_with_parent

AGENT = ".ranks"  # in the cell's folder
# A rank that has lost another waits so long to be ended with it: the first end that the agent sees is the other's.
GRACE_S = 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# A process that does these to itself has crashed; nobody has killed it.
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS)
# Strategies of Lightning that say how processes start, which is settled here.
DDP = ("auto", "torchrun", "ddp", "ddp_fork", "ddp_spawn", "ddp_notebook")
WAITED = "waited"  # a file of each rank that has waited for another in vain
_WAITED_FOR_IT = "the others have waited for it longer than sweep.stall_limit; raise the limit if it only takes long"
_SAY_IT_AGAIN = ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn")
# What Python, torch on a GPU and torch on the processor, which has no error of its own for it, say.
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError", "DefaultCPUAllocator: can't allocate memory")


class RankError(RuntimeError):
    """A rank has died, and its cell with it.

    Args:
        text: Which one and why.
        status: Of the cell's record: error, killed or oom.
        trace: The rank's own traceback, if it left one.
    """

    def __init__(self, text: str, status: str = "error", trace: str | None = None) -> None:
        super().__init__(text)
        self.status, self.trace = status, trace


def world_size_here() -> int:
    """The processes that there are."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def under_torchrun() -> bool:
    """Whether this process is a rank. RANK alone says nothing: batch systems and containers set it too."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """The number of this process among all, 0 for one that is alone."""
    return int(os.environ["RANK"]) if under_torchrun() else 0


def check_nodes(devices: int, nodes: int) -> None:
    """Refuse a number of processes that is not the one torchrun has started.

    Raises:
        UserError: Naming both.
    """
    if under_torchrun():
        started, here = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if (started, here) != (devices * nodes, devices):
            raise UserError(
                f"torchrun has started {started} processes, {here} of them on this machine, but "
                f"trainer.devices={devices} and trainer.num_nodes={nodes} ask for {devices * nodes}; "
                f"give trainer.devices={here} trainer.num_nodes={started // here}"
            )
    elif nodes > 1:
        raise UserError(
            f"trainer.num_nodes={nodes} is a program for torchrun, started on each machine: torchrun --nnodes={nodes} "
            f"--nproc-per-node={devices} --rdzv-backend=c10d --rdzv-endpoint=<first machine>:29500 --rdzv-id=<name> "
            f"--no-python normzoo train trainer.num_nodes={nodes} trainer.devices={devices} "
            "hydra.run.dir=<shared folder>/<name> ..."
        )


def launch(count: int, folder: Path, start_method: str, function: Callable[..., object], *arguments: Any) -> None:
    """Call `function(*arguments)` in `count` ranks and wait for all of them.

    Args:
        folder: For the agent's own files, while it runs.
        start_method: `fork`, which hands over the arguments as they are, or `spawn`, which pickles them.

    Raises:
        RankError: If a rank has raised or died; the others have been ended.
        UserError: If that was what the rank raised, or no port is free.
    """
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError as error:
        raise UserError(f"the ranks of a cell meet at a port of this machine, and none is free: {error}") from error
    logs = folder / AGENT
    spawned = start_method != "fork"
    settings = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, max_restarts=0, monitor_interval=0.05,
        start_method=start_method, run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1", logs_specs=DefaultLogsSpecs(log_dir=str(logs)),
    )  # fmt: skip
    with _restored():
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        try:
            elastic_launch(settings, _run)(logs, _logging() if spawned else None, function, arguments)
        except ChildFailedError as error:
            waited = {int(path.suffix[1:]) for path in logs.glob(f"{WAITED}.*")}
            hang = sorted(set(range(count)) - waited) if waited else []
            raise _told(error, hang) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None
        finally:
            shutil.rmtree(logs, ignore_errors=True)


def lost_another(error: BaseException) -> bool:
    """Whether the error says no more than that another process is gone."""
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return said or isinstance(error, torch.distributed.DistError)


def waited_in_vain(error: BaseException) -> bool:
    """Whether the error says that another process has not come to where all must meet, in all the time it had."""
    return lost_another(error) and re.search("timed out|timeout", str(error), re.IGNORECASE) is not None


def says_out_of_memory(said: str) -> bool:
    """Whether the error says, in the last lines of its traceback, that there was no memory left."""
    return any(words in said for words in _OUT_OF_MEMORY)


def _run(
    logs: Path, logging_config: dict[str, Any] | None, function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    """In each rank."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    die_with_parent()
    if logging_config is not None:
        logging.config.dictConfig(logging_config)
    try:
        function(*arguments)
    except SystemExit as error:
        raise RuntimeError(f"the process asked to end, with exit code {error.code}") from error
    except Exception as error:
        if waited_in_vain(error):
            (logs / f"{WAITED}.{rank()}").touch()
        if lost_another(error):
            time.sleep(GRACE_S)
        raise


def _told(error: ChildFailedError, hang: Sequence[int]) -> Exception:
    number, failure = error.get_first_failure()
    if hang and number not in hang:
        return RankError(f"rank {', '.join(map(str, hang))} hangs: {_WAITED_FOR_IT}", "timeout")
    message = failure.error_file_data.get("message")
    if isinstance(message, dict):
        said, trace = str(message["message"]), str(message["extraInfo"]["py_callstack"])
        name = said.split(":", 1)[0]
        if name in ("UserError", "RefusedError"):
            return UserError(said.split(": ", 1)[-1])
        return RankError(f"rank {number}: {said}", "oom" if says_out_of_memory(said) else "error", trace)
    if failure.exitcode >= 0:
        return RankError(f"rank {number} ended with exit code {failure.exitcode}; what it has printed says why")
    if -failure.exitcode in CRASHES:
        return RankError(f"rank {number} crashed ({failure.signal_name()}); what it has printed says where")
    return RankError(f"rank {number} was ended from outside ({failure.signal_name()})", "killed")


def _logging() -> dict[str, Any] | None:
    """What Hydra has made of logging in this process, which a spawned one knows nothing of."""
    if not HydraConfig.initialized():
        return None
    return OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)  # type: ignore[return-value]


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """What the agent does to this process undone; its tracebacks, which the record has, not printed."""
    environment = dict(os.environ)
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    levels = {name: logging.getLogger(name).level for name in _SAY_IT_AGAIN}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
