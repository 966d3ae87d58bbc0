"""Measure time and memory of one step of a layer: forward, and backward to its input and parameters."""

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
from normzoo.training.machine import processor_name

MIN_SECONDS = 2e-3  # per measurement; shorter steps are repeated to hide the cost of the clock and of Python
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
KEEP_FREE = 2**30  # bytes; glibc returns free memory beyond it to the system
MAX_MMAP_THRESHOLD = 2**25  # bytes; the largest value glibc is sure to accept
MIN_ROUNDS = 8  # fewer give no meaningful quartiles
BUSY = 0.5  # load above which timings are not to be trusted


@dataclass(frozen=True)
class Step:
    """A layer and its inputs, the first of which gets a gradient."""

    layer: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    parameters: tuple[nn.Parameter, ...] = ()

    @classmethod
    def of(cls, layer: nn.Module, *inputs: Tensor) -> "Step":
        """Return a step with the layer's trainable parameters."""
        return cls(layer, inputs, tuple(p for p in layer.parameters() if p.requires_grad))

    def __call__(self, grad: Tensor) -> tuple[float, float]:
        """Run forward and backward; return the seconds until the output and until the gradients."""
        x = self.inputs[0]
        start = _now(x)
        y = self.layer(*self.inputs)
        middle = _now(x)
        torch.autograd.grad(y, [x, *self.parameters], grad, allow_unused=True)
        return middle - start, _now(x) - start

    def saved_bytes(self) -> int:
        """Return the bytes that the forward saves for the backward."""
        return saved_bytes(self.layer, *self.inputs, parameters=self.parameters)


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


@dataclass(frozen=True)
class Times:
    """Seconds of the forward, and of forward plus backward, one value per round."""

    forward: tuple[float, ...]
    both: tuple[float, ...]


def time_in_turn(
    steps: Mapping[str, Step], rounds: int, enough: Callable[[Mapping[str, Times]], bool] = lambda times: True
) -> dict[str, Times]:
    """Time several steps in turn in one process, so that background load affects all of them alike.

    A round runs the steps in order and then in reverse, so that none has an advantage. Each step runs once untimed
    right before it is timed, so that it finds the allocator and the caches as it left them itself.

    Args:
        steps: Steps to time, by name.
        rounds: Number of rounds.
        enough: Called with the times so far; as many rounds are added until it returns True.
    """
    grads = {name: torch.randn_like(step.inputs[0]) for name, step in steps.items()}
    repeats = {}
    for name, step in steps.items():
        step(grads[name])
        repeats[name] = max(1, math.ceil(MIN_SECONDS / step(grads[name])[1]))
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
    """Median and quartiles of the ratios of the rounds."""

    median: float
    low: float
    high: float
    rounds: int = 1

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> "Ratio":
        """Return the ratio of two lists of times, round by round."""
        each = [a / b for a, b in zip(ours, theirs, strict=True)]
        low, median, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else (each * 3)
        return cls(median, low, high, len(each))

    @property
    def error(self) -> float:
        """Half the width of a 95 % confidence interval of the median, as in the notch of a box plot."""
        return 1.57 * (self.high - self.low) / math.sqrt(self.rounds)

    def decides(self, target: float) -> bool:
        """Return whether the ratio is known within 1 %, or is clearly on one side of the target."""
        if self.rounds < MIN_ROUNDS:
            return False
        return self.error <= 0.01 * self.median or abs(self.median - target) > 2 * self.error


@dataclass(frozen=True)
class LayerRow:
    """Measurements of one norm, a row of `normzoo bench layers`; a ratio is None without a reference."""

    norm: str
    against: str
    shape: tuple[int, ...]
    milliseconds: tuple[float, float] | None = None
    """Medians of forward, and of forward plus backward."""
    forward: Ratio | None = None
    both: Ratio | None = None
    saved: float | None = None
    """Bytes saved for the backward, relative to those of the input."""
    saved_against: float | None = None
    compiled_forward: Ratio | None = None
    """The compiled norm relative to the reference, which is not compiled."""
    compiled_both: Ratio | None = None
    compiled_saved: float | None = None
    note: str = ""


def saved_bytes(layer: Callable[..., Tensor], *inputs: Tensor, parameters: Sequence[Tensor] = ()) -> int:
    """Return the bytes that a forward saves for its backward, without those of `parameters`.

    The input counts if it is saved. A shared storage counts once, and in full even if only a part of it is used.
    """
    storages: dict[int, int] = {}
    alive = []  # keeps freed addresses from being reused

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
    """Make glibc keep freed memory in this process, as a process that holds a model does.

    Otherwise memory goes back and forth to the system, depending on its layout: the same layer took up to twice as
    long in some rounds as in others.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    # The mmap threshold comes first: setting the trim threshold freezes it.
    if any(mallopt(M_MMAP_THRESHOLD, most) for most in (KEEP_FREE, MAX_MMAP_THRESHOLD)):
        mallopt(M_TRIM_THRESHOLD, KEEP_FREE)


def machine(device: str) -> dict[str, Any]:
    """Describe the hardware and versions that the measurements ran on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else processor_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def load() -> float:
    """Return the load average of the last minute (1 per busy core); 0 where it is unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write results as JSON.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another file for --json") from error
