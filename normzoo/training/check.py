"""Check whether a cell can run, before it trains."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normzoo._conformance.facts import operations
from normzoo.errors import RefusedError, UserError
from normzoo.probes._layers import all_norms
from normzoo.registry import info
from normzoo.text import counted
from normzoo.training.chosen_callbacks import build_callbacks, check_callbacks
from normzoo.training.config import CellConfig
from normzoo.training.distributed import check_nodes
from normzoo.training.fit import build_trainer
from normzoo.training.instantiate import (
    build_model,
    build_norm,
    build_optimizer,
    build_placement,
    build_probes,
    norm_info,
)
from normzoo.training.loggers import check_logger
from normzoo.training.machine import processor_cores
from normzoo.training.shape_trace import ShapeTrace, check_shapes
from normzoo.training.target import takes
from normzoo.training.target import title as title_of

PROCESSES_PER_CORE = 4  # of one cell: slower than one for each core, and the same result; more are a slip of the hand
log = logging.getLogger("normzoo")


def check_devices(config: CellConfig) -> None:
    """Reject a trainer that asks for more devices than this machine has.

    Raises:
        UserError: With what was asked for and what there is.
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


def check_cell(config: CellConfig, data: Any) -> ShapeTrace:
    """Check the options, build the cell's model without memory and trace the shapes of a batch through it.

    Args:
        config: Valid, its devices checked.
        data: Its data module, set up.

    Raises:
        RefusedError: If the batch is larger than the training set, the model cannot be built for these images, or a
            norm cannot be computed on the shapes that reach it.
        UserError: If an option is wrong whatever it is combined with.
    """
    check_options(config, data, devices_here=False)
    check_trainer(config)
    build_probes(config)
    check_optimizer(config)
    return check_shapes(config, data, lambda: build_model(config, data.image_shape, data.num_classes))


def check_options(config: CellConfig, data: Any, *, devices_here: bool = True) -> None:
    """Check logger, batch, norm and placement, as `check_cell` does first.

    Args:
        config: Valid.
        data: Its data module, set up.
        devices_here: Check the devices too, since the cell will train on this machine.

    Raises:
        UserError: As `check_cell` does.
    """
    if devices_here:
        check_devices(config)
    check_logger(config.logger)
    check_callbacks(config)
    per_device, accumulated = config.batch_size_per_device, config.trainer.accumulate_grad_batches
    if config.global_batch > data.num_train:
        accumulates = f" or trainer.accumulate_grad_batches={accumulated}" if accumulated > 1 else ""
        raise RefusedError(
            f"a global batch of {config.global_batch} samples is larger than the training set of {data.num_train}: "
            f"lower batch_size_per_device={per_device} or trainer.devices={config.trainer.devices}{accumulates}"
        )
    norm = norm_info(config)
    if norm.kind != "layer":
        name = config.norm["name"]
        raise RefusedError(
            f"{name} is of kind {norm.kind!r}, and a model is built of layers: put it into yours in code, with "
            f"normzoo.create({name!r}, ...); normzoo.list_norms(kind='layer') lists those that can be swept"
        )
    build_norm(config)
    build_placement(config)
    check_ignored(config, data)


def check_trainer(config: CellConfig) -> None:
    """Have Lightning check the trainer's options together.

    Raises:
        UserError: With Lightning's message, such as that a strategy needs a GPU.
    """
    trainer = {**config.plain["trainer"], "devices": 1, "num_nodes": 1, "deterministic": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build_trainer(config.changed(logger={}, trainer=trainer), Path(), build_callbacks(config))
    except Exception as error:  # whatever a plugin of it raises
        raise UserError(f"trainer={config.trainer.name}: {str(error).strip().splitlines()[0]}") from error


def check_optimizer(config: CellConfig) -> None:
    """Check that the optimizer accepts its options.

    Raises:
        UserError: With the option.
    """
    build_optimizer(config, [nn.Parameter(torch.zeros(1))])


def check_ignored(config: CellConfig, data: Any) -> None:
    """Reject a model of the user's that computes the same whatever `norm` is, or wherever `placement` puts it.

    Raises:
        UserError: With what it ignores, and the norms that it builds instead.
    """
    if str(config.model.get("_target_")).startswith("normzoo."):
        return  # tested for every norm and placement
    if not takes("model", config.model, "norm"):
        return  # its norms are converted, which tells what it has
    identity = info(config.norm["name"]).name == "identity"
    key = json.dumps([config.model, config.placement, data.image_shape, data.num_classes, identity], default=str)
    if key not in _ignored:
        try:
            _ignored[key] = find_ignored(config, data, identity)
        except Exception:  # whatever the model raises: it is built again with its norm, and then the user is told
            _ignored[key] = None
    if _ignored[key] is not None:
        raise UserError(_ignored[key])


_ignored: dict[str, str | None] = {}


def find_ignored(config: CellConfig, data: Any, identity: bool) -> str | None:
    """Return which option the model ignores, as an error message; None if it ignores none.

    Args:
        config: Of the cell.
        data: Its data module.
        identity: Whether the norm is `identity`, which a model without norms may be swept with.
    """
    title = title_of("model", config.model)
    order, where = (config.placement.get(key, usual) for key, usual in (("order", "pre_act"), ("where", "all")))
    model, everywhere = _operations(config, data, order, "all")
    own = [f"{name} ({type(layer).__name__})" for name, layer in all_norms(model) if not isinstance(layer, _Marker)]
    listed = ", ".join(own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "")
    if not any(name.startswith("i0.") for name in everywhere):
        if not own and (identity or where == "none"):
            return None
        has = f"builds norms of its own: {listed}; build" if own else "has no norms; choose norm=identity, or build"
        return f"{title} ignores norm=; it {has} norms by the `norm` that the model is given"
    if where != "all" and everywhere == _operations(config, data, order, "none")[1]:
        return f"{title} ignores placement.where={where}; leave it at all, or normalize where `placement.where` says"
    if order != "pre_act" and where != "none" and everywhere == _operations(config, data, "pre_act", "all")[1]:
        return f"{title} ignores placement.order={order}; leave it at pre_act, or follow `placement.order`"
    if own:
        log.info("%s keeps norms of its own, whatever norm= is: %s", title, listed)
    return None


class _Marker(nn.BatchNorm2d):
    """In place of a norm: has what code that initializes a model looks for, and computes what no model does."""

    def __init__(self, num_features: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_features)

    def forward(self, input: Tensor) -> Tensor:
        return torch.i0(input)


def _operations(config: CellConfig, data: Any, order: str, where: Any) -> tuple[nn.Module, list[str]]:
    """Build the model with the marker as its norm, and list the operations of its forward."""
    placed = config.changed(placement={"order": order, "where": where})
    with torch.device("meta"), torch.no_grad():
        model = build_model(placed, data.image_shape, data.num_classes, _Marker)
        return model, operations(model.train(), (torch.empty(2, *data.image_shape),))
