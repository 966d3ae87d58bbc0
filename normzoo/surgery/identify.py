"""Identify the norms of a model by what they compute, whatever their class is called."""

import dataclasses
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from normzoo.registry import facts_of, info
from normzoo.surgery._probe import Equation, probe

OF_TORCH = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d)
# A class that inherits torch's forward computes what torch's class does.
FORWARDS = {
    _BatchNorm.forward: "batch_norm",
    nn.SyncBatchNorm.forward: "sync_batch_norm",
    _InstanceNorm.forward: "instance_norm",
    nn.GroupNorm.forward: "group_norm",
    nn.LayerNorm.forward: "layer_norm_channel",
    nn.RMSNorm.forward: "rms_norm",
}
NAMED_AS_NORM = re.compile(r"norm|(?<![a-z])bn|rms", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Norm:
    """What a layer computes: `y = x_hat · (weight_offset + weight) + bias`, then the layers named in `after`."""

    equation: str
    """The registered norm with this equation; empty if the layer is not identified, and `reason` says why."""
    num_features: int | tuple[int, ...] = 0
    """The channels, or the sizes of several trailing dimensions that are normalized together."""
    channel_dim: int = 1
    eps: float | None = None
    momentum: float | None = None
    num_groups: int | None = None
    weight: str | None = None
    """The name of the parameter or buffer, as are `bias`, `mean`, `var` and `count`; None if there is none."""
    weight_offset: float = 0.0
    bias: str | None = None
    mean: str | None = None
    var: str | None = None
    count: str | None = None
    over: str = ""
    """What the running statistics are of: `batch` or `instance`; empty if there are none."""
    after: tuple[str, ...] = ()
    """The children that the layer applies to the normalized values, such as an activation."""
    arguments: tuple[str, ...] = ()
    """What the forward takes besides the input."""
    reason: str = ""


def identify(layer: nn.Module, shape: Sequence[int] | None = None) -> Norm:
    """Describe a layer: by its forward if that is torch's or ours, otherwise by the equation that its outputs obey.

    The layer is not called: a copy is, with values of its own. It says nothing about a layer that is no norm, other
    than that no equation fits.

    Args:
        layer: Any layer.
        shape: The shape of an input, for a layer without parameters, which does not tell its number of channels.
    """
    if isinstance(layer, torch.jit.ScriptModule):
        return Norm("", reason="it is scripted, and its code is fixed: convert before torch.jit.script")
    if _is_lazy(layer):
        return Norm("", reason="it is lazy, without a number of channels yet: run one batch first")
    if is_parametrized(layer):
        return Norm("", reason="its parameters are computed by torch.nn.utils.parametrize: remove that first")
    if "forward" in vars(layer):
        return Norm("", reason="its forward was replaced on this one layer")
    known = _known(layer)
    if known is not None:
        return known
    others = _arguments(layer)
    needed = [p.name for p in others if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        return Norm("", reason=f"its forward takes {', '.join(needed)} besides the input")
    numbers = _numbers_of_features(layer, shape)
    for num_features in numbers:
        found = probe(layer, num_features)
        if found is not None:
            return _described(layer, num_features, found)
    if not numbers:
        return Norm("", reason="it does not tell its number of channels: pass sample=")
    return Norm("", reason="its outputs follow none of the known equations")


def find_norms(
    model: nn.Module, shapes: Mapping[nn.Module, Sequence[int]] | None = None
) -> Iterator[tuple[str, nn.Module, Norm]]:
    """Yield name, layer and description of each norm in a model once, outermost only, in the order of registration.

    A layer that is not identified is yielded if its class or its name says that it is a norm; `reason` says why.

    Args:
        model: Any module; a norm itself has the name "".
        shapes: The shapes of inputs by layer, where known; see `identify`.
    """
    seen: set[nn.Module] = set()
    described: dict[object, Norm] = {}

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module, Norm]]:
        if module in seen:
            return
        seen.add(module)
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted or _may_be_norm(module):
            shape = (shapes or {}).get(module)
            key = _alike(module, shape)
            if key not in described:
                described[key] = identify(module, shape)
            norm = described[key]
            kind = module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
            if norm.equation or isinstance(module, OF_TORCH) or NAMED_AS_NORM.search(kind):
                yield name, module, norm
                return
        for child_name, child in module.named_children():
            yield from walk(f"{name}.{child_name}" if name else child_name, child)

    return walk("", model)


def _alike(layer: nn.Module, shape: Sequence[int] | None) -> object:
    """What layers have in common that one description fits; the layer itself if that cannot be told."""
    if isinstance(layer, torch.jit.ScriptModule) or "forward" in vars(layer) or _is_lazy(layer):
        return layer
    plain = (bool, int, float, str, tuple, torch.Size, type(None))
    own = [(name, value) for name, value in vars(layer).items() if name != "training" and isinstance(value, plain)]
    tensors = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
    sizes = [(name, tensor.shape, tensor.device.type) for name, tensor in tensors]
    key = (type(layer), tuple(own), tuple(sizes), tuple(map(repr, layer.children())), shape and tuple(shape))
    try:
        hash(key)
    except TypeError:
        return layer
    return key


def _is_lazy(layer: nn.Module) -> bool:
    return any(isinstance(t, (UninitializedParameter, UninitializedBuffer)) for t in _tensors(layer))


def _may_be_norm(layer: nn.Module) -> bool:
    """Return whether a layer is worth a probe: it holds vectors, or nothing at all and is called a norm."""
    if isinstance(layer, OF_TORCH) or facts_of(layer) is not None:
        return True
    if type(layer).__module__.startswith("torch.nn."):
        return False
    own = _tensors(layer)
    if own:
        return any(t.ndim == 1 for t in own) and all(t.ndim <= 1 for t in own)
    return not layer._modules and bool(NAMED_AS_NORM.search(type(layer).__name__))


def _numbers_of_features(layer: nn.Module, shape: Sequence[int] | None) -> list[int]:
    """List the numbers of channels that a layer may be built for, most likely first."""
    vectors = [len(t) for t in _tensors(layer) if t.ndim == 1 and t.is_floating_point()]
    if vectors:
        return sorted(set(vectors), key=vectors.count, reverse=True)[:2]
    named = [vars(layer).get(name) for name in ("num_features", "num_channels", "normalized_shape")]
    whole = [n[0] if isinstance(n, (tuple, list)) and len(n) == 1 else n for n in named]
    told = [n for n in whole if isinstance(n, int) and not isinstance(n, bool)]
    return told or list(dict.fromkeys((shape[1], shape[-1]) if shape and len(shape) > 1 else ()))


def _known(layer: nn.Module) -> Norm | None:
    """Describe a layer whose forward is torch's or that of a registered norm; None for any other."""
    facts, forward = facts_of(layer), type(layer).forward
    registered = facts is not None and forward is getattr(facts.build, "forward", None)
    equation = facts.name if facts is not None and registered else FORWARDS.get(forward)
    if equation is None:
        return None
    shape = getattr(layer, "normalized_shape", ())
    features = next((n for n in (getattr(layer, k, None) for k in ("num_features", "num_channels")) if n), sum(shape))
    if len(shape) > 1:
        features = tuple(shape)
    elif not isinstance(features, int) or not features:
        return Norm("", reason="it does not tell its number of channels")
    over = statistics_over(equation)
    size = math.prod(features) if isinstance(features, tuple) else features
    names = _named(layer, ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"), size)
    weight, bias, mean, var, count = names
    if not over or (mean is None and var is None):
        over, mean, var, count = "", None, None, None
    return Norm(
        equation,
        features,
        channel_dim=getattr(layer, "channel_dim", -1 if shape and not registered else 1),
        eps=getattr(layer, "eps", None),
        momentum=getattr(layer, "momentum", None),
        num_groups=getattr(layer, "num_groups", None),
        weight=weight,
        weight_offset=float(getattr(layer, "weight_offset", 0.0)),
        bias=bias,
        mean=mean,
        var=var,
        count=count,
        over=over,
        arguments=tuple(p.name for p in _arguments(layer)),
    )


def statistics_over(equation: str) -> str:
    """Return what running statistics of a registered norm are of: `batch`, `instance`, or empty for neither."""
    facts = info(equation)
    if "N, *" in facts.reduces_over or "torch.nn.BatchNorm2d" in facts.peers:
        return "batch"
    return "instance" if "torch.nn.InstanceNorm2d" in facts.peers else ""


def _arguments(layer: nn.Module) -> list[inspect.Parameter]:
    """Return what the forward takes besides the input."""
    return list(inspect.signature(type(layer).forward).parameters.values())[2:]


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


def _named(layer: nn.Module, names: Sequence[str], size: int) -> list[str | None]:
    tensors = {name: getattr(layer, name, None) for name in names}
    sizes = {"num_batches_tracked": 1}
    return [n if isinstance(t, Tensor) and t.numel() == sizes.get(n, size) else None for n, t in tensors.items()]


def _described(layer: nn.Module, num_features: int, found: Equation) -> Norm:
    counts = [name for name, b in layer.named_buffers(recurse=False) if b.ndim == 0 and not b.is_floating_point()]
    synchronized = found.equation == "batch_norm" and isinstance(layer, nn.SyncBatchNorm)
    return Norm(
        num_features=num_features,
        count=counts[0] if counts and found.mean else None,
        arguments=tuple(p.name for p in _arguments(layer)),
        **{**vars(found), "equation": "sync_batch_norm" if synchronized else found.equation},
    )
