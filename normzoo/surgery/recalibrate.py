"""Running statistics recomputed: what a trained model's batch statistics average to over the training set."""

from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from normzoo.registry import facts_of


def differing_norms(model: nn.Module) -> Iterator[nn.Module]:
    """The norms, ours or others', that normalize by other statistics in evaluation than in training.

    The layer decides, not its class: a batch norm without running statistics does not differ, an instance norm with
    them does. One that these do not decide has an attribute `train_eval_differ`.
    """
    return (layer for layer in model.modules() if _differs(layer))


def _differs(layer: nn.Module) -> bool:
    if hasattr(layer, "train_eval_differ"):
        return bool(layer.train_eval_differ)
    facts, buffers = facts_of(layer), dict(layer.named_buffers())
    if facts and facts.train_eval_differ:
        return not facts.state or any(name in buffers for name in facts.state)
    if isinstance(layer, _InstanceNorm) and not layer.track_running_stats:
        return False  # it keeps what it has, and ignores it
    # Without a momentum running statistics are constants: a frozen batch norm's.
    return hasattr(layer, "momentum") and bool(_running(layer))


def averages_batches(layer: nn.Module) -> bool:
    """Whether running statistics of this layer are averages of batches, which `recalibrate` can take anew.

    A registered norm says so by a method `reset_running_stats` beside its `momentum`, as torch's layers have.
    """
    follows_torch = hasattr(layer, "reset_running_stats") or facts_of(layer) is None
    tracks = getattr(layer, "track_running_stats", True)
    return follows_torch and tracks and hasattr(layer, "momentum") and bool(_running(layer))


def _running(layer: nn.Module) -> list[str]:
    return [name for name, _ in layer.named_buffers(recurse=False) if name.startswith("running_")]


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Replace running statistics by the mean of the batch statistics over `batches`.

    The population statistics of the BatchNorm paper's Algorithm 2, called PreciseBN by Wu & Johnson. Weights stay as
    they are; layers whose running statistics are no average of batches, and whatever is not a norm (dropout, say), stay
    in evaluation mode.

    Args:
        model: changed in place; it is left in evaluation mode.
        batches: inputs of the size that the model was trained with, already on the model's device.

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
        layer.momentum = None  # type: ignore[assignment]  # a cumulative average, in torch's convention
        if facts_of(layer) is None and not isinstance(layer, _BatchNorm):
            # Not everybody's: torch's own instance norm takes None for 0. The t-th batch has a weight of 1 / t.
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
