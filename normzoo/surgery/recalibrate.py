"""Running statistics recomputed: what a trained model's batch statistics average to over the training set."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from normzoo.registry import norm_layers


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Replace running statistics by the mean of the batch statistics over `batches`.

    The population statistics of the BatchNorm paper's Algorithm 2, called PreciseBN by Wu & Johnson. Weights stay as
    they are; layers without running statistics, and whatever is not a norm (dropout, say), stay in evaluation mode.

    Args:
        model: changed in place; it is left in evaluation mode.
        batches: inputs of the size that the model was trained with, already on the model's device.

    Returns:
        The model.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 2; Wu & Johnson 2021 (arXiv:2105.07576), section 3.
    """
    model.eval()
    tracking = [layer for _, layer in norm_layers(model) if hasattr(layer, "reset_running_stats")]
    running = ("running_mean", "running_var")
    tracking = [layer for layer in tracking if any(getattr(layer, key, None) is not None for key in running)]
    momenta = [layer.momentum for layer in tracking]
    for layer in tracking:
        layer.reset_running_stats()  # type: ignore[operator]
        layer.momentum = None  # type: ignore[assignment]  # a cumulative average, in torch's convention
        layer.train()
    if tracking:
        for x in batches:
            model(x)
    for layer, momentum in zip(tracking, momenta, strict=True):
        layer.momentum = momentum
    return model.eval()
