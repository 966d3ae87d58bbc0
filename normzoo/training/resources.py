"""What a cell needs of a machine, worked out once for every launcher, and what the machine has."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Resources:
    """GPUs, and processor cores, which count only where there are no GPUs to wait for."""

    gpus: int = 0
    cores: int = 1


def on_gpu(config: Mapping[str, Any]) -> bool:
    """Return whether the cell trains on GPUs of this machine."""
    return config["trainer"]["accelerator"] != "cpu" and torch.cuda.device_count() > 0


def resources(config: Mapping[str, Any], gpu: bool | None = None) -> Resources:
    """Return what a cell needs: a GPU per process if it trains on GPUs, and cores for its processes and data workers.

    Args:
        config: The cell's, resolved.
        gpu: Whether it will train on GPUs; by default, whether it would on this machine.
    """
    trainer, workers = config["trainer"], (config.get("data") or {}).get("num_workers", 0)
    gpu = on_gpu(config) if gpu is None else gpu
    return Resources(trainer["devices"] if gpu else 0, trainer["devices"] * (trainer["threads"] + workers))


def processor_cores() -> list[int]:
    """Return the numbers of the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@cache
def processor_name() -> str:
    """Return what the kernel calls the processor, where it says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
