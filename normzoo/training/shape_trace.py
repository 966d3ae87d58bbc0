"""What a batch meets on its way through a model: how many values each statistic averages, how much is convolved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from normzoo.registry import norm_layers

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Passage:
    """Of one batch through one model.

    Args:
        shapes: Of the input of each norm layer, by the layer's name.
        multiply_adds: Of each convolution for one sample; infinitely many for one in groups, which torch may take one
            after the other.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    multiply_adds: list[float] = field(default_factory=list)


def passage_of(model: nn.Module, x: torch.Tensor) -> Passage:
    """What `x` meets in the model in training mode, on any device, also `meta`."""
    passage = Passage()

    def note_shape(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        passage.shapes[names[layer]] = tuple(inputs[0].shape)

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        passage.multiply_adds.append(layer.weight.numel() * output[0, 0].numel() if layer.groups == 1 else math.inf)

    names = {layer: name for name, layer in norm_layers(model)}
    handles = [layer.register_forward_pre_hook(note_shape) for layer in names]
    handles += [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    try:
        with torch.no_grad():
            model.train()(x)
    finally:
        for handle in handles:
            handle.remove()
    return passage


def values_per_statistic(model: nn.Module, shapes: Shapes) -> tuple[dict[str, int], int | None]:
    """How many values each norm layer's statistics average, and over how many samples the widest of them reaches.

    Args:
        model: The model, in the process group it trains in, since a synchronized norm counts all processes.
        shapes: Of each norm layer's input, from `passage_of`.

    Returns:
        n by layer, and the normalization batch: 1 for a norm within each sample; None without any statistic.
    """
    layers = dict(norm_layers(model))
    values: dict[str, int] = {}
    batches: list[int] = []
    for name, shape in shapes.items():
        count = getattr(layers[name], "values_per_statistic", None)
        if count is not None:
            values[name] = count(shape)
            within_a_sample = count((2, *shape[1:])) == count((1, *shape[1:]))
            batches.append(1 if within_a_sample else count(shape) // math.prod(shape[2:]))
    return values, max(batches, default=None)
