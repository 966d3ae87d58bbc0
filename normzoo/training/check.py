"""What can be known of a cell before it trains: whether it can be."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normzoo.errors import UserError
from normzoo.registry import norm_layers
from normzoo.text import counted
from normzoo.training.config import CellConfig
from normzoo.training.distributed import check_nodes
from normzoo.training.follows import check_follows
from normzoo.training.instantiate import (
    build_model,
    build_norm,
    build_optimizer,
    build_placement,
    build_probes,
    norm_info,
)
from normzoo.training.loggers import check_logger
from normzoo.training.resources import processor_cores
from normzoo.training.shape_trace import Passage, passage_of
from normzoo.training.trainable import choose_trained

PROCESSES_PER_CORE = 4  # of one cell: slower than one for each core, and the same result; more are a slip of the hand


class RefusedError(UserError):
    """This combination cannot be, though each of its parts is fine: an instance norm on a 1×1 map, for instance."""


def check_devices(config: CellConfig) -> None:
    """Refuse a trainer that asks for more devices than this machine has.

    Raises:
        UserError: Naming what was asked for and what there is.
    """
    devices, accelerator = config.trainer.devices, config.trainer.accelerator
    gpus, cores = torch.cuda.device_count(), len(processor_cores())
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator={accelerator} is not supported; choose auto, cpu or gpu")
    if accelerator in ("gpu", "cuda") and gpus == 0:
        raise UserError(
            f"trainer.accelerator={accelerator}, but this machine has no CUDA device; use trainer.accelerator=cpu"
        )
    check_nodes(devices, config.trainer.num_nodes)
    if config.on_gpu and devices > gpus:
        raise UserError(
            f"trainer.devices={devices}, but this machine has {counted(gpus, 'GPU')}; ask for at most {gpus}"
        )
    if not config.on_gpu and devices > PROCESSES_PER_CORE * cores:
        raise UserError(
            f"trainer.devices={devices}, but this machine has {counted(cores, 'processor core')}; ask for at most "
            f"{PROCESSES_PER_CORE * cores}, which take turns"
        )


def check_cell(config: CellConfig, data: Any, *, devices_here: bool = True) -> Passage:
    """Check the options, build the cell's model without memory and pass one batch's shape through it.

    Args:
        config: Valid.
        data: Its data module, set up.
        devices_here: Whether it trains on this machine, so that its devices can be counted.

    Returns:
        What the batch meets in the model.

    Raises:
        RefusedError: If the batch is larger than the training set, the model cannot be built for these images, or a
            norm cannot be computed on the shapes that reach it.
        UserError: If an option is wrong whatever it is combined with.
    """
    check_options(config, data, devices_here=devices_here)
    check_trainer(config)
    build_probes(config)
    check_optimizer(config)
    return check_shapes(config, data, lambda: build_model(config, data.image_shape, data.num_classes))


def check_options(config: CellConfig, data: Any, *, devices_here: bool = True) -> None:
    """What `check_cell` finds out, and raises, before it builds an optimizer and the model."""
    if devices_here:
        check_devices(config)
    check_logger(config.logger)
    per_device, accumulated = config.batch_size_per_device, config.trainer.accumulate_grad_batches
    together = config.global_batch
    if together > data.num_train:
        accumulates = f" or trainer.accumulate_grad_batches={accumulated}" if accumulated > 1 else ""
        raise RefusedError(
            f"a global batch of {together} samples is larger than the training set of {data.num_train}: "
            f"lower batch_size_per_device={per_device} or trainer.devices={config.trainer.devices}{accumulates}"
        )
    name = config.norm["name"]
    kind = norm_info(config).kind
    if kind != "layer":
        raise RefusedError(
            f"{name} is of kind {kind!r}, and a model is built of layers: put it into yours in code, with "
            f"normzoo.create({name!r}, ...); normzoo.list_norms(kind='layer') lists those that can be swept"
        )
    build_norm(config)
    build_placement(config)
    check_follows(config, data)


def check_trainer(config: CellConfig) -> None:
    """Have Lightning look at the trainer's options together, before it does so in the middle of a sweep.

    Raises:
        UserError: With what it says, such as that a strategy needs a GPU.
    """
    from normzoo.training.fit import build_trainer  # which itself has what was checked

    alone = config.changed(
        logger={}, trainer={**config.plain["trainer"], "devices": 1, "num_nodes": 1, "deterministic": False}
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build_trainer(alone, Path(), [])
    except Exception as error:  # whatever a plugin of it raises
        raise UserError(f"trainer={config.trainer.name}: {str(error).strip().splitlines()[0]}") from error


def check_optimizer(config: CellConfig) -> None:
    """Refuse options that the optimizer does not take.

    Raises:
        UserError: Naming the option.
    """
    build_optimizer(config, [nn.Parameter(torch.zeros(1))])


def check_shapes(config: CellConfig, data: Any, build: Callable[[], nn.Module]) -> Passage:
    """Pass the shapes of the cell's batches through the model that `build` makes, all of it without memory.

    Raises:
        RefusedError: If it cannot be built, or a norm cannot be computed on the shapes that reach it.
    """
    try:
        with torch.device("meta"):
            model = build()
            choose_trained(model, config.optimizer.trains)
            plan_processes(model, config.world_size)
            passage = passage_of(model, torch.empty(config.batch_size_per_device, *data.image_shape))
            _check_last_batch(model, config, data)
            return passage
    except Exception as error:  # whatever a model of the user's raises
        told = isinstance(error, (UserError, TypeError, ValueError, RuntimeError))
        raise RefusedError(str(error) if told else f"{type(error).__name__}: {error}") from error


def plan_processes(model: nn.Module, processes: int) -> None:
    """Tell synchronized norms how many processes there will be, so that they count the batches of all."""
    for _, layer in norm_layers(model):
        if hasattr(layer, "planned_processes"):
            layer.planned_processes = processes  # type: ignore[assignment]


def _check_last_batch(model: nn.Module, config: CellConfig, data: Any) -> None:
    """Pass through the model what the last, short batch of an epoch leaves to each process, if it is kept."""
    together = config.batch_over_devices
    batches, left = divmod(data.num_train, together)
    limit = config.trainer.limit_train_batches
    limit = 1.0 if limit is None else limit  # as Lightning has it
    reached = limit == 1.0 if isinstance(limit, float) else limit > batches
    if getattr(data, "drop_last", True) or not left or not reached:
        return
    processes = config.world_size
    plan_processes(model, min(left, processes))
    for size in {math.ceil(left / processes), left // processes} - {0}:
        try:
            passage_of(model, torch.empty(size, *data.image_shape))
        except (UserError, ValueError, RuntimeError) as error:
            raise RefusedError(
                f"the last batch of an epoch holds {left} of the {data.num_train} images: {error}; or set "
                f"data.drop_last=true, or another data.train_size"
            ) from error
