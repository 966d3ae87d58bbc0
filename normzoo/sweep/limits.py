"""What a job may take, and how much of it its processes have taken."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """Of one job.

    Args:
        seconds: From its start.
        memory: GiB that its processes may have for themselves, all together: what is in memory and shared with no other
            process. What a process shares with the one it was forked from, such as the libraries, is not counted.
        silence: Seconds without a sign of life once there has been one: something printed, or `give_sign_of_life`.
    """

    seconds: float | None = None
    memory: float | None = None
    silence: float | None = None


def memory_below() -> float:
    """GiB that the processes below this one have for themselves."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().uss
    return total / GIB


def kill_below() -> None:
    """End all processes below this one."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


def kill_with(variable: str, value: str) -> None:
    """End all processes that began with this variable in their environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value:
                process.kill()


def kernel_oom_kills(root: Path = Path("/")) -> int:
    """How many processes the kernel has ended so far for want of memory: of this process's control group, or of all.

    Only the difference between two calls tells anything; 0 where the kernel does not say.

    Args:
        root: Of the file system.
    """
    for path in _counters(root):
        with contextlib.suppress(OSError):
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
            if found:
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


def offer_to_oom_killer() -> None:
    """Have the kernel, where it is out of memory, end this process before the sweep and the rest of the machine."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as stream:
        stream.write("500")
