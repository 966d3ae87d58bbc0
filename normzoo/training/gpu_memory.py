"""The GPU memory of a cell: its share where cells share a GPU, and what it took."""

import os
from typing import Any

import lightning
import torch

CELLS_PER_GPU = "NORMZOO_CELLS_PER_GPU"  # the variable that tells a cell how many share its GPU
CUDA_CONTEXT_GIB = 0.5  # roughly what CUDA takes for each process beside PyTorch's tensors


class GpuMemory(lightning.Callback):
    """Keep PyTorch within this process's share of the GPU's memory, and record the most that it has taken.

    Args:
        record: The entries of the cell's record.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Set the limit: beyond it PyTorch runs out of memory, and the other cells do not."""
        share = int(os.environ.get(CELLS_PER_GPU, "1"))
        if module.device.type == "cuda" and share > 1:
            torch.cuda.set_per_process_memory_fraction(fraction(share, _gib(module.device)), module.device)

    def on_fit_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Record the memory."""
        if module.device.type == "cuda":
            peak = torch.cuda.max_memory_reserved(module.device) / 2**30
            self.record["device"] |= {"memory_gib": _gib(module.device), "peak_memory_gib": peak}


def fraction(share: int, gpu_gib: float) -> float:
    """Return the part of a GPU's memory that PyTorch may take in each of `share` processes."""
    return max(0.01, 1 / share - CUDA_CONTEXT_GIB / gpu_gib)


def _gib(device: torch.device) -> float:
    return torch.cuda.get_device_properties(device).total_memory / 2**30
