r"""Start the ranks of a cell, its data-parallel processes, and say why they failed.

A cell on several devices forks its ranks, or spawns them on GPUs, under a torchrun agent in the cell's process. Nothing
runs the command line again, and the next cell's environment is not changed. The agent notices at once that a rank has
died, ends the others, and knows which one it was.

For several machines, the user starts torchrun on each of them, in a folder that all share; for two machines of eight
GPUs each

    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=<first machine>:29500 --rdzv-id=<name> \
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
from normzoo.training.parent_process import die_with_parent

AGENT = ".ranks"  # in the cell's folder
# Seconds that a rank which has lost another waits to be ended: the first end that the agent sees is the other's.
GRACE_S = 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# Signals of a process that has crashed, rather than been killed.
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS)
# Strategies of Lightning that decide how processes start, which is decided here.
DDP = ("auto", "torchrun", "ddp", "ddp_fork", "ddp_spawn", "ddp_notebook")
WAITED = "waited"  # a file of each rank whose wait for another has timed out
_WAITED_FOR_IT = "the others have waited for it longer than sweep.stall_limit; raise the limit if it only takes long"
_REPEATING_LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn")
# In the messages of Python, of torch on a GPU, and of torch on the processor, which has no error class for it.
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError", "DefaultCPUAllocator: can't allocate memory")


class RankError(RuntimeError):
    """A rank has died, and its cell with it.

    Args:
        text: Which one and why.
        status: The status of the cell's record: error, killed, oom or timeout.
        trace: The rank's own traceback, if it left one.
    """

    def __init__(self, text: str, status: str = "error", trace: str | None = None) -> None:
        super().__init__(text)
        self.status, self.trace = status, trace


def world_size_here() -> int:
    """Return the number of processes that train together now."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def gather(own: Any) -> list[Any]:
    """Return the objects of all processes, by rank."""
    if world_size_here() == 1:
        return [own]
    gathered: list[Any] = [None] * world_size_here()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def under_torchrun() -> bool:
    """Return whether this process is a rank. RANK alone does not tell: batch systems and containers set it too."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Return the number of this process among the ranks; 0 for a single process."""
    return int(os.environ["RANK"]) if under_torchrun() else 0


def check_nodes(devices: int, nodes: int) -> None:
    """Check that torchrun has started the configured number of processes.

    Raises:
        UserError: If not, with both numbers.
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
        count: The number of ranks.
        folder: Where the agent keeps its files while it runs.
        start_method: `fork`, which passes the arguments as they are, or `spawn`, which pickles them.
        function: What to call.
        arguments: Its arguments.

    Raises:
        RankError: If a rank has raised or died; the others have been ended.
        UserError: If a rank raised one, or no port is free.
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
            raise _error_of(error, hang) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None
        finally:
            shutil.rmtree(logs, ignore_errors=True)


def lost_another(error: BaseException) -> bool:
    """Return whether the error is that another process is gone."""
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return said or isinstance(error, torch.distributed.DistError)


def timed_out_waiting(error: BaseException) -> bool:
    """Return whether the error is a timeout of waiting for another process."""
    return lost_another(error) and re.search("timed out|timeout", str(error), re.IGNORECASE) is not None


def is_out_of_memory(said: str) -> bool:
    """Return whether the last lines of a traceback state that there was no memory left."""
    return any(words in said for words in _OUT_OF_MEMORY)


def _run(
    logs: Path, logging_config: dict[str, Any] | None, function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    """Run the function in a rank."""
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
        if timed_out_waiting(error):
            (logs / f"{WAITED}.{rank()}").touch()
        if lost_another(error):
            time.sleep(GRACE_S)
        raise


def _error_of(error: ChildFailedError, hang: Sequence[int]) -> Exception:
    number, failure = error.get_first_failure()
    if hang and number not in hang:
        return RankError(f"rank {', '.join(map(str, hang))} hangs: {_WAITED_FOR_IT}", "timeout")
    message = failure.error_file_data.get("message")
    if isinstance(message, dict):
        said, trace = str(message["message"]), str(message["extraInfo"]["py_callstack"])
        name = said.split(":", 1)[0]
        if name in ("UserError", "RefusedError"):
            return UserError(said.split(": ", 1)[-1])
        return RankError(f"rank {number}: {said}", "oom" if is_out_of_memory(said) else "error", trace)
    if failure.exitcode >= 0:
        return RankError(f"rank {number} ended with exit code {failure.exitcode}; what it has printed says why")
    if -failure.exitcode in CRASHES:
        return RankError(f"rank {number} crashed ({failure.signal_name()}); what it has printed says where")
    return RankError(f"rank {number} was ended from outside ({failure.signal_name()})", "killed")


def _logging() -> dict[str, Any] | None:
    """Return how Hydra has configured logging in this process, which a spawned one does not inherit."""
    if not HydraConfig.initialized():
        return None
    return OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)  # type: ignore[return-value]


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Undo what the agent does to this process, and do not print its tracebacks, which the record has."""
    environment = dict(os.environ)
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    levels = {name: logging.getLogger(name).level for name in _REPEATING_LOGGERS}
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
