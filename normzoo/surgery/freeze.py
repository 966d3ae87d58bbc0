"""Freeze the statistics, the weight and the bias of norms; train these alone; keep them out of weight decay."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.registry import facts_of

Where = Callable[[str, nn.Module], bool]


class NothingToFreezeError(UserError, ValueError):
    """No layer of the model is a norm that could be frozen, or trained."""


class Frozen:
    """Stand in for the `train` of one layer that stays in evaluation mode, and remember how it was before.

    An attribute of the layer, so that copies and pickles of the model are frozen too.

    Attributes:
        statistics: Whether the layer stays in evaluation mode.
        trainable: Which of its parameters required gradients, by name; empty if they are not frozen.
        mode: The mode that the layer would be in.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.mode = layer, layer.training
        self.statistics = False
        self.trainable: dict[str, bool] = {}

    def __call__(self, mode: bool = True) -> nn.Module:
        """Set the mode of the children, such as dropout behind the norm, and of the layer unless it is frozen."""
        self.mode = mode
        self.layer.training = mode and not self.statistics
        for child in self.layer.children():
            child.train(mode)
        return self.layer


def frozen(layer: nn.Module) -> Frozen | None:
    """Return what `freeze` has remembered of a layer; None if it is not frozen."""
    found = vars(layer).get("train")
    return found if isinstance(found, Frozen) else None


def statistics_frozen(layer: nn.Module) -> bool:
    """Return whether `freeze` keeps the layer in evaluation mode."""
    found = frozen(layer)
    return found is not None and found.statistics


def freeze(model: nn.Module, *, statistics: bool = True, affine: bool = True, where: Where | None = None) -> nn.Module:
    """Freeze the norms that have running statistics: batch norms of any rank and library, sync, with an activation.

    A norm with frozen statistics evaluates with its running ones and does not move them, also after `model.train()`.
    Frozen parameters require no gradient and have none, so that no optimizer moves or decays them. Nothing else is
    touched: neither momentum nor counters, nor the mode of dropout. `unfreeze` undoes it. Freezing twice adds up.

    Warn of layers that are dead when frozen: without statistics yet, or with a weight that is all zero, as behind a
    residual block that starts as the identity.

    Args:
        model: Changed in place.
        statistics: Whether to freeze the running statistics.
        affine: Whether to freeze the norm's own parameters, such as weight and bias.
        where: Which norms, by name and layer: `lambda name, layer: name.startswith("layer1")`.

    Returns:
        The model.

    Raises:
        NothingToFreezeError: A ValueError, if there is no such norm.
        UserError: If neither statistics nor affine is to be frozen.

    Source: He et al. 2015, arXiv:1512.03385, appendix A.
    """
    if not statistics and not affine:
        raise UserError("freeze: nothing to freeze with statistics=False and affine=False; leave one of them True")
    layers = {n: m for n, m in model.named_modules() if _has_statistics(m) and (where is None or where(n, m))}
    if not layers:
        raise NothingToFreezeError(
            f"freeze: no norm of {type(model).__name__} has running statistics"
            + (" where the predicate is true" if where else "")
        )
    if scripted := [name for name, layer in layers.items() if isinstance(layer, torch.jit.ScriptModule)]:
        raise NothingToFreezeError(
            f"freeze: layer {scripted[0]!r} is scripted: freeze the model before torch.jit.script"
        )
    for name, layer in layers.items():
        if statistics and not statistics_frozen(layer) and _is_new(layer):
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


def _has_statistics(layer: nn.Module) -> bool:
    """Return whether the layer has running statistics that it evaluates with."""
    facts = facts_of(layer)
    names = [name for name, _ in layer.named_buffers(recurse=False)]
    if facts is not None and facts.state and facts.kind != "weight":
        return any(name in names for name in facts.state)
    return hasattr(layer, "momentum") and any(name.startswith("running_") for name in names)


def _is_new(layer: nn.Module) -> bool:
    """Return whether the running statistics are those that a new layer has: means of 0, the others 1."""
    running = {name: b for name, b in layer.named_buffers(recurse=False) if name.startswith("running_")}
    if any(buffer.is_meta for buffer in running.values()):
        return False
    return bool(running) and all(bool(((b == 0) | (b == 1)).all()) for b in running.values())


def _warn(name: str, said: str) -> None:
    warnings.warn(f"freeze: layer {name!r} {said}", stacklevel=3)
