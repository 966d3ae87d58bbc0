"""Recompute running statistics as the average of a trained model's batch statistics over the training set."""

from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from normzoo.registry import facts_of


def differing_norms(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the norms, ours or others', that use different statistics in evaluation and in training.

    The layer decides, not its class: a batch norm without running statistics does not differ, an instance norm with
    them does. A layer can state it by an attribute `train_eval_differ`.
    """
    return (layer for layer in model.modules() if _differs(layer))


def _differs(layer: nn.Module) -> bool:
    if hasattr(layer, "train_eval_differ"):
        return bool(layer.train_eval_differ)
    facts, buffers = facts_of(layer), dict(layer.named_buffers())
    if facts and facts.train_eval_differ:
        return not facts.state or any(name in buffers for name in facts.state)
    if isinstance(layer, _InstanceNorm) and not layer.track_running_stats:
        return False  # it has running statistics, but ignores them
    # Without a momentum, as in a frozen batch norm, running statistics are constants.
    return hasattr(layer, "momentum") and bool(_running(layer))


def averages_batches(layer: nn.Module) -> bool:
    """Return whether the layer's running statistics are averages over batches, which `recalibrate` can recompute.

    A registered norm declares it by a method `reset_running_stats` and a `momentum`, as in torch's layers.
    """
    follows_torch = hasattr(layer, "reset_running_stats") or facts_of(layer) is None
    tracks = getattr(layer, "track_running_stats", True)
    return follows_torch and tracks and hasattr(layer, "momentum") and bool(_running(layer))


def _running(layer: nn.Module) -> list[str]:
    return [name for name, _ in layer.named_buffers(recurse=False) if name.startswith("running_")]


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Replace running statistics by the mean of the batch statistics over `batches`.

    These are the population statistics of the BatchNorm paper's Algorithm 2, called PreciseBN by Wu & Johnson. Weights
    do not change; other layers, such as dropout, and norms whose running statistics are not averages of batches stay in
    evaluation mode.

    Args:
        model: Changed in place, and left in evaluation mode.
        batches: Inputs of the training batch size, on the model's device.

    Returns:
        The model.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 2; Wu & Johnson 2021 (arXiv:2105.07576), section 3.
    """
    model.eval()
    layers = [layer for layer in differing_norms(model) if averages_batches(layer)]
    momenta = [layer.momentum for layer in layers]
    calls: Counter[nn.Module] = Counter()

    def weigh(layer: nn.Module, _: object) -> None:
        calls[layer] += 1
        layer.momentum = 1 / calls[layer]  # type: ignore[assignment]

    hooks = []
    for layer in layers:
        if hasattr(layer, "reset_running_stats"):
            layer.reset_running_stats()  # type: ignore[operator]
        layer.momentum = None  # type: ignore[assignment]  # torch's convention for a cumulative average
        if facts_of(layer) is None and not isinstance(layer, _BatchNorm):
            # torch's instance norm takes None for 0, so set the weight of the t-th batch, 1 / t, explicitly.
            hooks.append(layer.register_forward_pre_hook(weigh))
        layer.train()
    try:
        for x in batches if layers else ():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    return model.eval()
