"""Compare training and evaluation statistics: one model's error under each."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from normzoo.surgery.recalibrate import recalibrate
from normzoo.surgery.running import differing_norms, tracks


def differs(model: nn.Module) -> bool:
    """Return whether any norm in the model uses different statistics in evaluation and in training."""
    return any(True for _ in differing_norms(model))


def can_recalibrate(model: nn.Module) -> bool:
    """Return whether `normzoo.surgery.recalibrate` can recompute the statistics of every such norm."""
    return all(map(tracks, differing_norms(model)))


def with_batch_statistics(model: nn.Module) -> nn.Module:
    """Copy the model in evaluation mode, with norms that use batch statistics."""
    twin = copy.deepcopy(model).eval()
    for layer in list(differing_norms(twin)):
        layer.training = True  # not that of its children, such as dropout behind it
    return twin


def with_population_statistics(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Copy the model and recompute its running statistics over `batches`; see `normzoo.surgery.recalibrate`."""
    return recalibrate(copy.deepcopy(model), batches).eval()


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return predicted and true classes over `batches`, each of shape (samples,), on the model's device."""
    device = next(model.parameters()).device
    pairs = [(model(x.to(device)).argmax(dim=1), y.to(device)) for x, y in batches]
    none = torch.empty(0, dtype=torch.long, device=device)
    predicted, true = zip(*pairs, (none, none), strict=True)
    return torch.cat(predicted), torch.cat(true)
