"""Freeze the statistics, the weight and the bias of norms; train these alone; keep them out of weight decay."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from normzoo.registry import facts_of
from normzoo.surgery.identify import find_norms
from normzoo.surgery.report import SurgeryError
from normzoo.surgery.running import Frozen, frozen, moves, running_statistics, statistics_frozen

Where = Callable[[str, nn.Module], bool]


def freeze(model: nn.Module, *, statistics: bool = True, affine: bool = True, where: Where | None = None) -> nn.Module:
    """Freeze the norms that have running statistics: batch norms of any rank and library, sync, with an activation.

    A norm with frozen statistics evaluates with its running ones and does not move them, also after `model.train()`.
    Frozen parameters require no gradient and have none, so that no optimizer moves or decays them. Nothing else is
    touched: neither momentum nor counters, nor the mode of dropout. `unfreeze` undoes it. Freezing twice adds up.

    Warn of layers that are dead when frozen: without statistics yet, or with a weight that is all zero, as behind a
    residual block that starts as the identity; and of batch norms that keep no statistics.

    torch's `convert_sync_batchnorm` (Lightning's `sync_batchnorm=True`) builds new layers, whose statistics are not
    frozen: freeze after it.

    Args:
        model: Changed in place.
        statistics: Whether to freeze the running statistics.
        affine: Whether to freeze the norm's own parameters, such as weight and bias.
        where: Which norms, by name and layer: `lambda name, layer: name.startswith("layer1")`.

    Returns:
        The model.

    Raises:
        SurgeryError: If there is no such norm, or neither statistics nor affine is to be frozen.

    Source: He et al. 2015, arXiv:1512.03385, appendix A.
    """
    if not statistics and not affine:
        raise SurgeryError("freeze: nothing to freeze with statistics=False and affine=False; leave one of them True")
    layers = {n: m for n, m in model.named_modules() if moves(m) and (where is None or where(n, m))}
    if not layers:
        raise SurgeryError(
            f"freeze: no norm of {type(model).__name__} has running statistics"
            + (" where the predicate is true" if where else "")
        )
    if scripted := [name for name, layer in layers.items() if isinstance(layer, torch.jit.ScriptModule)]:
        raise SurgeryError(f"freeze: layer {scripted[0]!r} is scripted: freeze the model before torch.jit.script")
    for name, layer in model.named_modules() if statistics else ():
        if isinstance(layer, _BatchNorm) and layer.running_mean is None and (where is None or where(name, layer)):
            _warn(name, "keeps no running statistics, so it is not frozen and normalizes by the batch")
    for name, layer in layers.items():
        if statistics and not statistics_frozen(layer) and is_new(layer):
            _warn(name, "has no statistics yet, and will only scale and shift: run recalibrate or train it first")
        weight = getattr(layer, "weight", None)
        if affine and isinstance(weight, Tensor) and not weight.is_meta and weight.numel() and not bool(weight.any()):
            _warn(
                name, "has a weight of zeros, and nothing before it will learn: freeze(affine=False), or leave it out"
            )
        memory = frozen(layer) or Frozen(layer)
        layer.train = memory
        if statistics:
            memory.statistics = True
            layer.training = False
        if affine and not memory.trainable:
            for key, parameter in layer.named_parameters(recurse=False):
                memory.trainable[key] = parameter.requires_grad
                parameter.requires_grad_(False)
                parameter.grad = None
    return model


def unfreeze(model: nn.Module, *, where: Where | None = None) -> nn.Module:
    """Undo `freeze`: parameters require gradients as before, and norms are in the mode that the model was last put in.

    Args:
        model: Changed in place; norms that are not frozen stay as they are.
        where: Which norms, by name and layer; None for all.

    Returns:
        The model.
    """
    for name, layer in model.named_modules():
        memory = frozen(layer)
        if memory is None or (where is not None and not where(name, layer)):
            continue
        del layer.train
        layer.training = memory.mode
        for key, trainable in memory.trainable.items():
            layer.get_parameter(key).requires_grad_(trainable)
    return model


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the model's norms, each once: weights, biases, and whatever else they learn."""
    layers = [
        layer for _, outer, _ in find_norms(model) for layer in outer.modules() if layer is outer or _is_norm(layer)
    ]
    return list(dict.fromkeys(p for layer in layers for p in layer.parameters(recurse=False)))


def train_only_norms(model: nn.Module) -> list[nn.Parameter]:
    """Let only the parameters of norms require gradients, and return them for an optimizer.

    Args:
        model: Changed in place.

    Raises:
        SurgeryError: If no norm of the model has parameters.

    Source: Frankle, Schwab & Morcos 2020, arXiv:2003.00152.
    """
    own = norm_parameters(model)
    if not own:
        raise SurgeryError(f"train_only_norms: no norm of {type(model).__name__} has parameters")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for parameter in own:
        parameter.requires_grad_(True)
    return own


def no_weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into a group with weight decay and one without: those of norms, and biases.

        optimizer = torch.optim.AdamW(no_weight_decay_groups(model, 0.05), lr=1e-3)

    Source: He et al. 2018, arXiv:1812.01187, section 3.1.
    """
    apart = {id(p) for p in norm_parameters(model)}
    apart |= {id(p) for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in apart], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in apart], "weight_decay": 0.0},
    ]


def _is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, _NormBase) or facts_of(layer) is not None


def is_new(layer: nn.Module) -> bool:
    """Return whether the running statistics are those that a new layer has: means of 0, the others 1."""
    running = [layer.get_buffer(name) for name in running_statistics(layer)]
    return not any(b.is_meta for b in running) and all(bool(((b == 0) | (b == 1)).all()) for b in running)


def _warn(name: str, said: str) -> None:
    warnings.warn(f"freeze: layer {name!r} {said}", stacklevel=3)
