"""How far training-time and test-time statistics are apart: one model's error under each."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from normzoo.surgery.recalibrate import averages_batches, differing_norms, recalibrate


def differs(model: nn.Module) -> bool:
    """Whether any norm in the model normalizes by other statistics in evaluation than in training."""
    return any(True for _ in differing_norms(model))


def can_recalibrate(model: nn.Module) -> bool:
    """Whether the statistics of every such norm can be recomputed by `normzoo.surgery.recalibrate`."""
    return all(map(averages_batches, differing_norms(model)))


def with_batch_statistics(model: nn.Module) -> nn.Module:
    """A copy of the model that normalizes by the statistics of the batch it is given, and else evaluates."""
    twin = copy.deepcopy(model).eval()
    for layer in list(differing_norms(twin)):
        layer.train()
    return twin


def with_population_statistics(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of the model whose running statistics are recomputed over `batches`; see `normzoo.surgery.recalibrate`."""
    return recalibrate(copy.deepcopy(model), batches)


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Predicted and true classes over `batches`, each of shape (samples,), on the model's device."""
    device = next(model.parameters()).device
    predicted, true = (
        [torch.empty(0, dtype=torch.long, device=device)],
        [torch.empty(0, dtype=torch.long, device=device)],
    )
    for x, y in batches:
        predicted.append(model(x.to(device)).argmax(dim=1))
        true.append(y.to(device))
    return torch.cat(predicted), torch.cat(true)
