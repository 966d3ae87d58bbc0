"""How far training-time and test-time statistics are apart: one model's error under each."""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from normzoo.registry import info, list_norms, norm_layers
from normzoo.surgery.recalibrate import recalibrate


def differs(model: nn.Module) -> bool:
    """Whether any norm in the model normalizes by other statistics in evaluation than in training."""
    return any(True for _ in _differing(model))


def can_recalibrate(model: nn.Module) -> bool:
    """Whether the statistics of every such norm can be recomputed by `normzoo.surgery.recalibrate`."""
    return all(getattr(layer, "running_mean", None) is not None for layer in _differing(model))


def _differing(model: nn.Module) -> Iterator[nn.Module]:
    apart = tuple(fact.build for fact in map(info, list_norms(train_eval_differ=True)) if isinstance(fact.build, type))
    for _, layer in norm_layers(model):
        if isinstance(layer, apart) and getattr(layer, "track_running_stats", True):
            yield layer


def with_batch_statistics(model: nn.Module) -> nn.Module:
    """A copy of the model that normalizes by the statistics of the batch it is given, and else evaluates."""
    twin = copy.deepcopy(model).eval()
    for _, layer in norm_layers(twin):
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
