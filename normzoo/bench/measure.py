"""Time and memory of one step of a layer: forward, and backward to its input and parameters."""

import ctypes
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import UserError

LEAST = 2e-3  # seconds in one measurement: a shorter step is repeated, so that the clock and Python do not show
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of GNU's malloc.h
KEPT = 2**30  # bytes: of more that is free a process gives some back
MOST_FROM_THE_HEAP = 2**25  # bytes: GNU's malloc may map larger blocks one by one, whatever it is told
FEWEST = 8  # rounds whose quartiles say anything
BUSY = 0.5  # of `load`, above which figures are not to be trusted


@dataclass(frozen=True)
class Step:
    """A layer and what it is called with; the first input gets a gradient."""

    layer: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    parameters: tuple[nn.Parameter, ...] = ()

    @classmethod
    def of(cls, layer: nn.Module, *inputs: Tensor) -> "Step":
        return cls(layer, inputs, tuple(p for p in layer.parameters() if p.requires_grad))

    def __call__(self, grad: Tensor) -> tuple[float, float]:
        """Seconds until the output is there, and until its gradients are as well."""
        x = self.inputs[0]
        start = _now(x)
        y = self.layer(*self.inputs)
        middle = _now(x)
        torch.autograd.grad(y, [x, *self.parameters], grad, allow_unused=True)
        return middle - start, _now(x) - start

    def saved_bytes(self) -> int:
        return saved_bytes(self.layer, *self.inputs, parameters=self.parameters)


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


@dataclass(frozen=True)
class Times:
    """Seconds of forward, and of forward and backward, one of each for a round."""

    forward: tuple[float, ...]
    both: tuple[float, ...]


def time_in_turn(
    steps: Mapping[str, Step], rounds: int, enough: Callable[[Mapping[str, Times]], bool] = lambda times: True
) -> dict[str, Times]:
    """Time several steps in one process, in turn, so that whatever else the machine does meets all of them.

    A round goes through the steps and back again, so that none comes earlier than another. Right before it is measured
    a step runs once unmeasured. It then finds the allocator as it left it itself, not as another did that holds more
    memory or less, and its own code and data in the caches.

    Args:
        steps: What is to be timed, by name.
        rounds: How many.
        enough: Whether what was measured so far suffices; otherwise there are as many rounds again.
    """
    grads = {name: torch.randn_like(step.inputs[0]) for name, step in steps.items()}
    repeats = {}
    for name, step in steps.items():
        step(grads[name])
        repeats[name] = max(1, math.ceil(LEAST / step(grads[name])[1]))
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    while True:
        for _ in range(rounds):
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
            for name in (*steps, *reversed(list(steps))):
                steps[name](grads[name])
                found[name] += [steps[name](grads[name]) for _ in range(repeats[name])]
            for name, times in found.items():
                forward, both = (statistics.fmean(each) for each in zip(*times, strict=True))
                measured[name].append((forward, both))
        result = {name: Times(*(tuple(each) for each in zip(*times, strict=True))) for name, times in measured.items()}
        if enough(result):
            return result


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of each round, with their quartiles."""

    median: float
    low: float
    high: float
    rounds: int = 1

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> "Ratio":
        each = [a / b for a, b in zip(ours, theirs, strict=True)]
        low, median, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else (each * 3)
        return cls(median, low, high, len(each))

    @property
    def error(self) -> float:
        """Half of what holds the true median 19 times in 20, as the notch of a box plot does."""
        return 1.57 * (self.high - self.low) / math.sqrt(self.rounds)

    def tells(self, target: float) -> bool:
        """Whether it is known to a hundredth, or plain on which side of a target it lies."""
        if self.rounds < FEWEST:
            return False
        return self.error <= 0.01 * self.median or abs(self.median - target) > 2 * self.error


def saved_bytes(layer: Callable[..., Tensor], *inputs: Tensor, parameters: Sequence[Tensor] = ()) -> int:
    """Bytes that a forward keeps for its backward: each storage once, those of `parameters` not at all.

    The input counts if it is kept. Shared storages count once, and in full however small the part that is used.
    """
    storages: dict[int, int] = {}
    alive = []  # a storage that is given back could come again at the same address

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(*inputs)
    held = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    return sum(size for pointer, size in storages.items() if pointer not in held)


def keep_freed_memory() -> None:
    """Have this process keep memory that is freed, where the C library is GNU's, as one that holds a model does.

    Otherwise it gives some back and asks for it again, more or less often as chance lays out the memory; by the time
    that takes the same layer was found up to twice as slow in some rounds as in others.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # other systems, other libraries
        return
    # Set first, and where it is too much the most that is allowed: to set the other one freezes it as it is.
    if any(mallopt(M_MMAP_THRESHOLD, most) for most in (KEPT, MOST_FROM_THE_HEAP)):
        mallopt(M_TRIM_THRESHOLD, KEPT)


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def load() -> float:
    """How much the machine is at work, 1 for each core; 0 where that is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures for programs.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --json FILE") from error


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
