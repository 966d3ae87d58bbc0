"""Checkpoints, from which an interrupted cell resumes and ends as if it had not been interrupted, bit for bit.

They hold what Lightning saves (weights, optimizer, schedule, gradient scaler, loops, callbacks with a state) and what
it leaves out of each process: random states, sums over the epoch so far, what norms remember outside their state dicts.
The order of the samples is not saved, since (seed, epoch) decides it.

Checkpoints are data, and loading one runs no code: torch loads only tensors, numbers, texts and containers of these,
and rejects a file with anything else.

On one or two processes the resumed training equals the uninterrupted one bit for bit, where the training itself is
repeatable. On more, the first step may sum gradients over the processes in another order, since DistributedDataParallel
lays out its buckets anew, and the last bit of a sum may differ.
"""

import logging
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.registry import norm_layers
from normzoo.training.checkpoint_io import read_checkpoint
from normzoo.training.distributed import gather, rank
from normzoo.training.small_batches import CHECK_EVERY, is_whole

CHECKPOINT = "checkpoint.ckpt"
SCHEMA = 1
_OURS, _DATACLASS = "normzoo", "is a dataclass"
_OF_TORCH = frozenset(vars(nn.Module()))
log = logging.getLogger("normzoo")


def find_checkpoint(folder: Path, cell: str, *, resume: bool) -> Path | None:
    """Return the checkpoint to resume from; None if there is none that can be used.

    Args:
        folder: The cell's.
        cell: Its identity. The checkpoint of another cell, or an unreadable one, is ignored with a warning.
        resume: Whether to resume at all; if not, the checkpoint is removed.
    """
    path = folder / CHECKPOINT
    if rank() == 0:
        for draft in folder.glob(f".{CHECKPOINT}.*.tmp"):  # of a process that was killed while it wrote
            draft.unlink(missing_ok=True)
        if not resume:
            path.unlink(missing_ok=True)
    if not resume or not path.exists():
        return None
    try:
        saved = read_checkpoint(path)[_OURS]
        schema, of, epoch, batches = (saved[key] for key in ("schema", "cell", "epoch", "batches"))
        why = f"is of another cell, {of}" if of != cell else f"is of another normzoo (schema {schema})"
        usable = (schema, of) == (SCHEMA, cell)
    except (ValueError, KeyError, TypeError) as error:
        why, usable = str(error) if isinstance(error, ValueError) else "is of no cell of normzoo", False
    if rank() == 0 and usable:
        log.info("resumes from its checkpoint, after epoch %d%s", epoch, f", batch {batches}" if batches else "")
    elif rank() == 0:
        log.warning("%s %s: the cell starts from the beginning", path, why)
    return path if usable else None


class Checkpoints(Checkpoint):
    """Save `checkpoint.ckpt` at the end of an epoch, or within one longer than `every`; must be the last callback.

    As one of Lightning's kind, it comes after those that stop a training early, and saves what they have counted.

    Args:
        folder: The cell's.
        cell: Its identity.
        every: Minimum seconds between checkpoints; None for no checkpoints.
        probes: Callbacks whose state may differ between processes.
        resumes: Whether this process has found a checkpoint to resume from.
    """

    takes_slices = True

    def __init__(
        self, folder: Path, cell: str, every: float | None, probes: Sequence[Callback] = (), *, resumes: bool = False
    ) -> None:
        self.path, self.cell, self.every, self.probes, self.resumes = folder / CHECKPOINT, cell, every, probes, resumes
        self._saved: dict[str, Any] | None = None
        self._batches = 0
        stateless = [one for one in probes if type(one).state_dict is Callback.state_dict]
        self.possible = all(not vars(one) or type(one).__module__.startswith("lightning.") for one in stateless)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Check that all processes have found the checkpoint, or none."""
        found = gather(self.resumes)
        if len(set(found)) > 1:
            without = ", ".join(str(number) for number, there in enumerate(found) if not there)
            raise UserError(
                f"rank {without} found no usable {CHECKPOINT}, which the others resume from; the cell's folder, "
                f"{self.path.parent}, must be one that all machines share"
            )

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start the clock, and restore what Lightning does not."""
        self._since_save = self._since_epoch = time.monotonic()
        if not self.possible and self.every is not None and rank() == 0:
            log.info("no checkpoints: a callback without state_dict() cannot be resumed")
        if self._saved is None:
            return
        own = self._saved["ranks"][trainer.global_rank]
        if own["probes"]:
            for probe, state in zip(self.probes, own["probes"], strict=True):
                probe.load_state_dict(state)
        module.resume(own["progress"])
        _remember(module, own["remembered"])
        trainer.train_dataloader.skip(self._saved["batches"])  # type: ignore[union-attr]
        _set_random_state(own["random"], module.device)
        self._saved = None

    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        """Restart the clock of the epoch."""
        self._since_epoch = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save within an epoch if it is time."""
        done = (batch_idx + 1) * module.at_once
        look = trainer.world_size == 1 or done % CHECK_EVERY == 0  # several processes must agree, which takes time
        between = done % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch
        # A validation within the epoch would be due at the very batch that a resumed training takes as done.
        if look and between and is_whole(trainer.val_check_interval):
            self._save_if_due(trainer, max(self._since_save, self._since_epoch), done)

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Save if it is time."""
        self._save_if_due(trainer, self._since_save, 0)

    def _save_if_due(self, trainer: Trainer, since: float, batches: int) -> None:
        if not self.possible or self.every is None or trainer.should_stop or trainer.fit_loop.done:
            return  # at the end, the result is about to be written
        if trainer.strategy.reduce_boolean_decision(time.monotonic() - since >= self.every, all=False):
            self._batches = batches
            trainer.save_checkpoint(self.path)
            self._since_save = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning leaves out of each process."""
        own = {
            "random": _random_state(module.device),
            "progress": module.progress(),
            "remembered": _remembered(module),
            # Lightning saves those of the first process.
            "probes": [probe.state_dict() for probe in self.probes] if trainer.global_rank else [],
        }
        done = {"epoch": trainer.current_epoch + (self._batches == 0), "batches": self._batches}
        checkpoint[_OURS] = {"schema": SCHEMA, "cell": self.cell, **done, "ranks": gather(own)}

    def on_load_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep what is restored once the training starts."""
        self._saved = checkpoint[_OURS]


def _random_state(device: torch.device) -> dict[str, Any]:
    numpy: Any = np.random.get_state()
    numpy = (numpy[0], numpy[1].tolist(), *numpy[2:])
    state = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:  # it may have been saved on a machine without one
        torch.cuda.set_rng_state(state["cuda"], device)


def _remembered(module: nn.Module) -> dict[str, Any]:
    """Return what the norms remember outside their state dicts: past batches, counts."""
    found = {}
    for name, layer in norm_layers(module):
        own = {key: _plain(value) for key, value in vars(layer).items() if key not in _OF_TORCH and _is_memory(value)}
        if own:
            found[name] = own
    return found


def _remember(module: nn.Module, remembered: dict[str, Any]) -> None:
    layers = dict(norm_layers(module))
    for name, own in remembered.items():
        homes = [vars(sys.modules[one.__module__]) for one in type(layers[name]).__mro__]
        kinds = {key: one for home in homes for key, one in home.items() if isinstance(one, type) and is_dataclass(one)}
        vars(layers[name]).update({key: _live(value, kinds, module.device) for key, value in own.items()})


def _plain(value: Any) -> Any:
    """Convert each dataclass within the value to its name and entries."""
    if is_dataclass(value):
        value = {_DATACLASS: type(value).__name__, **_entries(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _entries(value: Any) -> dict[str, Any]:
    return {entry.name: getattr(value, entry.name) for entry in fields(value)}


def _live(value: Any, kinds: dict[str, Any], device: Any) -> Any:
    """Invert `_plain`, given the dataclasses of the modules that define the layer."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        entries = {key: _live(each, kinds, device) for key, each in value.items() if key != _DATACLASS}
        return kinds[value[_DATACLASS]](**entries) if _DATACLASS in value else entries
    return type(value)(_live(each, kinds, device) for each in value) if type(value) in (list, tuple) else value


def _is_memory(value: Any) -> bool:
    value = _entries(value) if is_dataclass(value) else value
    value = list(value.values()) if isinstance(value, dict) else value
    return any(map(_is_memory, value)) if isinstance(value, (list, tuple)) else isinstance(value, (int, float, Tensor))
