"""Checkpoints: what a cell that was cut short goes on from, and then ends as if nothing had happened, bit for bit.

They hold what Lightning saves (weights, optimizer, schedule, gradient scaler, loops, callbacks with a state) and, of
each process, what it leaves out: random numbers, sums over the epoch so far, what norms remember outside their state.
The order of the samples needs no saving, being decided by (seed, epoch).

They are data, and nothing in them runs: torch reads tensors, numbers, texts and containers of these alone, and refuses
a file that names anything else.

On one or two processes the continued training is the undisturbed one bit for bit, where the training itself is
repeatable. With more, the first step may sum gradients over the processes in another order, as DistributedDataParallel
lays out its buckets anew, and the last bit of a sum with it.
"""

import io
import logging
import random
import re
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.registry import norm_layers
from normzoo.results import write_atomic
from normzoo.training.at_once import CHECK_EVERY
from normzoo.training.distributed import rank

CHECKPOINT = "checkpoint.ckpt"
SCHEMA = 1
_OURS, _DATACLASS = "normzoo", "is a dataclass"
_OF_TORCH = frozenset(vars(nn.Module()))
log = logging.getLogger("normzoo")


def find_checkpoint(folder: Path, cell: str, *, resume: bool) -> Path | None:
    """What the cell goes on from; None where it starts anew: there is nothing, or nothing that can be used.

    Args:
        folder: The cell's.
        cell: Its identity. The checkpoint of another, or one that cannot be read, is left alone, and a line says so.
        resume: Whether it is to go on at all; if not, the checkpoint is removed.
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
        with zipfile.ZipFile(path) as archive:  # torch.load takes wrong bytes for weights
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} is damaged")
        saved = torch.load(path, map_location="cpu", weights_only=True)[_OURS]
        schema, of, epoch, batches = (saved[key] for key in ("schema", "cell", "epoch", "batches"))
    except Exception as error:  # whatever unpickling may raise
        code = re.search(r"GLOBAL (\S+)", str(error))  # torch goes on with how one would have it run all the same
        named = f"it names {code[1]}, which is no data" if code else f"{type(error).__name__}: {error}"
        _say_ignored(path, f"cannot be read ({named})")
        return None
    if (schema, of) != (SCHEMA, cell):
        _say_ignored(path, f"is of another cell, {of}" if of != cell else f"is of another normzoo (schema {schema})")
        return None
    if rank() == 0:
        within = f", batch {batches}" if batches else ""
        log.info("goes on from its checkpoint, after epoch %d%s", epoch, within)
    return path


def _say_ignored(path: Path, why: str) -> None:
    if rank() == 0:
        log.warning("%s %s: the cell starts anew", path, why)


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all; one that cannot be written costs a warning, not the training."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        stream = io.BytesIO()
        try:
            torch.save(checkpoint, stream)
            stream.seek(0)
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(stream)
            if unsafe:
                raise TypeError(f"{', '.join(unsafe)} in a state_dict(), which may hold tensors, numbers and text")
            write_atomic(path, stream.getvalue())
        except Exception as error:  # of pickling, which raises what it likes, or of a full disk
            log.warning("no checkpoint: %s", error)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=True)


class Checkpoints(Callback):
    """Saves `checkpoint.ckpt` at the end of an epoch, or within one that takes longer than `every`; the last callback.

    Args:
        folder: The cell's.
        cell: Its identity.
        every: Seconds from one to the next at least; None for never.
        probes: Callbacks whose state differs between processes.
        goes_on: Whether this process has found a checkpoint to go on from.
    """

    takes_slices = True

    def __init__(
        self, folder: Path, cell: str, every: float | None, probes: Sequence[Callback] = (), *, goes_on: bool = False
    ) -> None:
        self.path, self.cell, self.every, self.probes, self.goes_on = folder / CHECKPOINT, cell, every, probes, goes_on
        self._saved: dict[str, Any] | None = None
        self._batches = 0
        stateless = [probe for probe in probes if type(probe).state_dict is Callback.state_dict]
        self.possible = not any(vars(probe) for probe in stateless)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        found = _of_all(self.goes_on)
        if len(set(found)) > 1:
            without = ", ".join(str(number) for number, there in enumerate(found) if not there)
            raise UserError(
                f"rank {without} found no usable {CHECKPOINT}, which the others go on from; the cell's folder, "
                f"{self.path.parent}, must be one that all machines share"
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._since_save = self._since_epoch = time.monotonic()
        if not self.possible and self.every is not None and rank() == 0:
            log.info("a probe without state_dict() cannot be continued, and so the cell writes no checkpoint")
        if self._saved is not None:
            self._go_on(trainer, module, self._saved)
            self._saved = None

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._since_epoch = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        at_once: int = module.at_once  # type: ignore[assignment]
        done = (batch_idx + 1) * at_once
        look = trainer.world_size == 1 or done % CHECK_EVERY == 0  # to agree on it takes time
        between = done % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch
        # A validation within the epoch would be due at the very batch that a continued training thinks done.
        if look and between and trainer.val_check_interval == 1.0:
            self._save_if_due(trainer, max(self._since_save, self._since_epoch), done)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._save_if_due(trainer, self._since_save, 0)

    def _save_if_due(self, trainer: Trainer, since: float, batches: int) -> None:
        if not self.possible or self.every is None or trainer.should_stop or trainer.fit_loop.done:
            return  # in the end the result is about to be written
        due = time.monotonic() - since >= self.every
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._batches = batches
            trainer.save_checkpoint(self.path)
            self._since_save = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        own = {
            "random": _random_state(module.device),
            "progress": module.progress(),  # type: ignore[operator]
            "remembered": _remembered(module),
            # Lightning saves those of the first process.
            "probes": [probe.state_dict() for probe in self.probes] if trainer.global_rank else [],
        }
        epoch = trainer.current_epoch + (self._batches == 0)
        checkpoint[_OURS] = {
            "schema": SCHEMA, "cell": self.cell, "epoch": epoch, "batches": self._batches, "ranks": _of_all(own),
        }  # fmt: skip

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved = checkpoint[_OURS]

    def _go_on(self, trainer: Trainer, module: LightningModule, saved: dict[str, Any]) -> None:
        own = saved["ranks"][trainer.global_rank]
        if own["probes"]:
            for probe, state in zip(self.probes, own["probes"], strict=True):
                probe.load_state_dict(state)
        module.resume(own["progress"])  # type: ignore[operator]
        _remember(module, own["remembered"])
        loader: Any = trainer.train_dataloader
        loader.skip(saved["batches"])
        _set_random_state(own["random"], module.device)


def _of_all(own: Any) -> list[Any]:
    """Of all processes what each of them has."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [own]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def _random_state(device: torch.device) -> dict[str, Any]:
    name, keys, *counts = cast(tuple[Any, ...], np.random.get_state())
    numpy = (name, keys.tolist(), *counts)
    state = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:  # it may have been saved on a machine without one
        torch.cuda.set_rng_state(state["cuda"], device)


def _remembered(module: nn.Module) -> dict[str, Any]:
    """What the norms in it remember that no state dict holds: past batches, counts."""
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
    """The value with each dataclass in it as its name and its entries."""
    if is_dataclass(value):
        entries = {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
        return {_DATACLASS: type(value).__name__, **entries}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _live(value: Any, kinds: dict[str, Any], device: Any) -> Any:
    """The inverse of `_plain`, given the dataclasses of the modules that define the layer."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        entries = {key: _live(each, kinds, device) for key, each in value.items() if key != _DATACLASS}
        return kinds[value[_DATACLASS]](**entries) if _DATACLASS in value else entries
    return type(value)(_live(each, kinds, device) for each in value) if type(value) in (list, tuple) else value


def _is_memory(value: Any) -> bool:
    if isinstance(value, (bool, int, float, Tensor)):
        return True
    if isinstance(value, dict):
        return any(map(_is_memory, value.values()))
    if is_dataclass(value):
        return any(_is_memory(getattr(value, entry.name)) for entry in fields(value))
    return isinstance(value, (list, tuple)) and any(map(_is_memory, value))
