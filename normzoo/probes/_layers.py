"""Which parts of a model are layers with weights, and which are norms."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from normzoo.registry import norm_layers

_TORCH_NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_PARAMETRIZED = ".parametrizations."


def all_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of each norm, ours or torch's, outermost only."""
    inside: set[nn.Module] = set()
    ours = dict(norm_layers(model))
    for name, module in model.named_modules():
        if module not in inside and (name in ours or isinstance(module, _TORCH_NORMS)):
            inside.update(module.modules())
            yield name, module


def weight_layers(model: nn.Module) -> dict[str, tuple[nn.Module, list[str]]]:
    """The layers with a matrix or a kernel: name -> module that is called, names of those trainable parameters.

    A weight is a trainable parameter of two dimensions or more outside norms. A layer whose weight is parametrized
    (weight norm, spectral norm) has the name of the layer and the parameters behind its weight.
    """
    within_norms = {id(parameter) for _, norm in all_norms(model) for parameter in norm.parameters()}
    layers: dict[str, tuple[nn.Module, list[str]]] = {}
    for path, module in model.named_modules():
        own = [
            f"{path}.{name}" if path else name
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and parameter.dim() > 1 and id(parameter) not in within_norms
        ]
        if own:
            layers[path.partition(_PARAMETRIZED)[0] or "model"] = (module, own)
    return layers
