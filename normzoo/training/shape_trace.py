"""Trace the shapes of a batch through a model: what its norms can compute, and how many values they average."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from normzoo.errors import RefusedError, UserError
from normzoo.probes._layers import all_norms
from normzoo.registry import norm_layers
from normzoo.training.config import CellConfig
from normzoo.training.distributed import world_size_here
from normzoo.training.target import title
from normzoo.training.trainable import choose_trained

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ShapeTrace:
    """The shapes of one batch in one model.

    Args:
        shapes: The shape of each norm's input, by the norm's name.
        multiply_adds: Those of each convolution for one sample; infinite for a grouped one, whose groups torch may
            compute one after the other.
        output: The shape of what the model returns; None if that is no tensor.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    multiply_adds: list[float] = field(default_factory=list)
    output: tuple[int, ...] | None = None


def trace_shapes(model: nn.Module, x: torch.Tensor) -> ShapeTrace:
    """Pass `x` through the model in training mode, on any device, also `meta`."""
    trace = ShapeTrace()

    def note_shape(layer: nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        trace.shapes[names[layer]] = tuple((*inputs, *named.values())[0].shape)

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        trace.multiply_adds.append(layer.weight.numel() * output[0, 0].numel() if layer.groups == 1 else math.inf)

    names = {layer: name for name, layer in all_norms(model)}
    handles = [layer.register_forward_pre_hook(note_shape, with_kwargs=True) for layer in names]
    handles += [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    try:
        with torch.no_grad():
            output = model.train()(x)
    finally:
        for handle in handles:
            handle.remove()
    return replace(trace, output=tuple(output.shape) if isinstance(output, torch.Tensor) else None)


def check_shapes(config: CellConfig, data: Any, build: Callable[[], nn.Module]) -> ShapeTrace:
    """Trace the cell's batches through the model that `build` returns, without memory.

    Raises:
        RefusedError: If the model cannot be built, or a norm cannot be computed on the shapes that reach it.
    """
    try:
        with torch.device("meta"):
            model = build().to("meta")
            choose_trained(model, config.optimizer.trains)
            plan_processes(model, config.world_size)
            trace = trace_shapes(model, torch.empty(config.batch_size_per_device, *data.image_shape))
            logits = (config.batch_size_per_device, data.num_classes)
            if trace.output != logits:
                of = "no tensor" if trace.output is None else f"shape {trace.output}"
                raise UserError(
                    f"{title('model', config.model)} returns {of} for a batch of {logits[0]}; it must return logits of "
                    f"shape {logits}, a number for each class"
                )
            _check_last_batch(model, config, data)
            return trace
    except Exception as error:  # whatever a model of the user's raises
        known = isinstance(error, (UserError, TypeError, ValueError, RuntimeError))
        raise RefusedError(str(error) if known else f"{type(error).__name__}: {error}") from error


def _check_last_batch(model: nn.Module, config: CellConfig, data: Any) -> None:
    """Trace the last, short batch of an epoch, as each process has it, if it is kept."""
    batches, left = divmod(data.num_train, config.batch_over_devices)
    limit = config.trainer.limit_train_batches
    limit = 1.0 if limit is None else limit  # as Lightning has it
    reached = limit == 1.0 if isinstance(limit, float) else limit > batches
    if getattr(data, "drop_last", True) or not left or not reached:
        return
    processes = config.world_size
    plan_processes(model, min(left, processes))
    for size in {math.ceil(left / processes), left // processes} - {0}:
        try:
            trace_shapes(model, torch.empty(size, *data.image_shape))
        except (UserError, ValueError, RuntimeError) as error:
            raise RefusedError(
                f"the last batch of an epoch holds {left} of the {data.num_train} images: {error}; or set "
                f"data.drop_last=true, or another data.train_size"
            ) from error


def plan_processes(model: nn.Module, processes: int) -> None:
    """Set the planned number of processes of synchronized norms, so that they count the batches of all."""
    for _, layer in norm_layers(model):
        if hasattr(layer, "planned_processes"):
            layer.planned_processes = processes  # type: ignore[assignment]


def values_per_statistic(model: nn.Module, shapes: Shapes) -> tuple[dict[str, int], int | None]:
    """Count the values that each norm's statistics average, and the samples that the widest of them covers.

    Args:
        model: The model, in the process group it trains in, since a synchronized norm counts all processes.
        shapes: The shape of each norm's input, from `trace_shapes`.

    Returns:
        The values by norm; and the normalization batch, which is 1 for norms within each sample and None without
        statistics.
    """
    layers = dict(all_norms(model))
    values: dict[str, int] = {}
    batches: list[int] = []
    for name, shape in shapes.items():
        count = getattr(layers[name], "values_per_statistic", None) or _torch_count(layers[name])
        if count is not None:
            values[name] = count(shape)
            within_a_sample = count((2, *shape[1:])) == count((1, *shape[1:]))
            batches.append(1 if within_a_sample else count(shape) // math.prod(shape[2:]))
    return values, max(batches, default=None)


def _torch_count(layer: Any) -> Callable[[Sequence[int]], int] | None:
    """Return how to count the values in a statistic of one of torch's norms."""
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return lambda shape: math.prod(layer.normalized_shape)
    if isinstance(layer, nn.GroupNorm):
        return lambda shape: layer.num_channels // layer.num_groups * math.prod(shape[2:])
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
        return lambda shape: math.prod(shape[2:])
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        processes = world_size_here() if isinstance(layer, nn.SyncBatchNorm) else 1
        return lambda shape: processes * shape[0] * math.prod(shape[2:])
    return None
