"""Find the norms of a model and its layers with weights."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from normzoo.registry import norm_layers

_TORCH_NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_PARAMETRIZED = ".parametrizations."


def all_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of each norm, ours or torch's; norms inside a norm are left out."""
    inside: set[nn.Module] = set()
    ours = dict(norm_layers(model))
    for name, module in model.named_modules():
        if module not in inside and (name in ours or isinstance(module, _TORCH_NORMS)):
            inside.update(module.modules())
            yield name, module


def weight_layers(model: nn.Module) -> dict[str, tuple[nn.Module, list[str]]]:
    """Return the layers with a weight matrix or kernel: name -> module to call, names of its trainable weights.

    A weight is a trainable parameter with at least two dimensions, outside norms. A layer with a parametrized weight
    (weight norm, spectral norm) has the name of the layer and the parameters behind the weight.
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
