"""Build the norm that takes a layer's place: what it keeps of the layer, and what it has to leave."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norm_act import finish
from normzoo.norm_info import NormInfo
from normzoo.registry import factory, info
from normzoo.surgery._adapted import adapted
from normzoo.surgery.identify import Norm, statistics_over
from normzoo.surgery.report import SurgeryError
from normzoo.validation import check_values

OWN_RULES = ("moving_average_fraction",)  # options that only one norm has, and that change what it learns
STATISTICS = {"mean": "running_mean", "var": "running_var", "count": "num_batches_tracked"}


@dataclasses.dataclass(frozen=True)
class Target:
    """The norm to convert to."""

    facts: NormInfo
    build: Callable[..., nn.Module]
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Successor:
    """What replaces a layer, and which tensors mean the same in both."""

    layer: nn.Module
    norm: nn.Module
    """The norm in `layer`, if an activation or a change of layout is around it; otherwise `layer`."""
    shared: Mapping[str, str]
    """The old layer's parameters and buffers that `norm` has too: the old names, and those in `norm`."""
    shifted: Mapping[str, tuple[str, float]]
    """Parameters that mean the same but for a number: old name, name in `norm`, and old value less new one."""
    was: Norm
    fresh: bool
    """Whether `norm` has running statistics that it did not get from the layer."""
    differs: bool
    """Whether `norm` computes something else, which calibration may bring nearer."""
    notes: tuple[str, ...] = ()


def target_of(to: str, options: Mapping[str, Any]) -> Target:
    """Find the norm called `to`, and check its options.

    Raises:
        UserError: If norm or option is unknown, or the norm cannot take the place of another.
    """
    facts = info(to)
    if facts.kind != "layer":
        what = "normalizes a weight" if facts.kind == "weight" else "takes a condition with each input"
        raise SurgeryError(
            f"{facts.name} {what}, so that it cannot take the place of another norm: choose one that can"
        )
    if "channel_dim" in options:
        raise SurgeryError("channel_dim is told by each layer that is converted: leave it out")
    keywords = {**factory(to, **options).keywords}
    keywords.pop("channel_dim", None)  # of an alias such as nn.LayerNorm
    return Target(facts, keywords.pop("build"), keywords)


def succeed(layer: nn.Module, norm: Norm, target: Target, like: Tensor | None) -> Successor:
    """Build the successor of a layer, which is not changed.

    Args:
        layer: The layer to replace.
        norm: Its description.
        target: The norm to replace it by.
        like: A tensor of the model, for device and dtype if the layer has none.
    """
    notes: list[str] = []
    own = [t for t in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)) if t.is_floating_point()]
    like = own[0] if own else like
    new = target.build(norm.num_features, **_options(layer, norm, target, like, notes))
    new = finish(new if like is None else new.to(like.device, like.dtype))
    if (
        norm.mean is not None
        and not getattr(layer, "track_running_stats", True)
        and hasattr(new, "track_running_stats")
    ):
        vars(new)["track_running_stats"] = False  # set after the layer was built, which keeps its statistics
    trainable = [p.requires_grad for p in layer.parameters(recurse=False)]
    if trainable and not any(trainable):
        new.requires_grad_(False)
    shared, shifted = _carry_affine(layer, norm, new, notes)
    statistics, fresh = _carry_statistics(layer, norm, target, new, notes)
    other = [
        name for name, p in new.named_parameters() if p.requires_grad and name not in (shared | statistics).values()
    ]
    if other:
        notes.append(f"new parameters, for the optimizer: {', '.join(other)}")
    differs = target.facts.name != norm.equation and not {norm.mean, norm.var} & statistics.keys() - {None}
    new.train(layer.training)
    outer = adapted(layer, norm, new, notes)
    return Successor(outer, new, shared | statistics, shifted, norm, fresh, differs, tuple(notes))


def _options(layer: nn.Module, norm: Norm, target: Target, like: Tensor | None, notes: list[str]) -> dict[str, Any]:
    """Return the options of the new norm: those given, and those that the layer has."""
    accepted, old = target.facts.arguments, info(norm.equation)
    kept: dict[str, Any] = {"eps": norm.eps, "channel_dim": norm.channel_dim, "weight_offset": norm.weight_offset}
    if like is not None:
        kept |= {"device": like.device, "dtype": like.dtype}
    if norm.mean is not None or norm.momentum is not None:
        kept["momentum"] = norm.momentum
    if "affine" in old.arguments:
        kept["affine"] = bool(norm.weight or norm.bias or getattr(layer, "affine", False))
    kept["bias"] = norm.bias is not None or norm.weight is None
    if hasattr(layer, "process_group"):
        kept["process_group"] = layer.process_group
    over = statistics_over(norm.equation)
    if over and over == statistics_over(target.facts.name):
        kept["track_running_stats"] = bool(norm.mean or norm.var or getattr(layer, "track_running_stats", False))
    if "C/G" in old.reduces_over and "C/G" in target.facts.reduces_over:
        kept["num_groups"] = norm.num_groups
    if type(layer) is target.build:  # all it was built with
        kept |= {name: getattr(layer, name) for name in accepted if hasattr(layer, name) and name not in kept}
    lost = [name for name in OWN_RULES if getattr(layer, name, None) is not None and name not in accepted]
    notes += [f"its {name}={getattr(layer, name):g} is left out" for name in lost]
    kept.pop("num_groups" if "channels_per_group" in target.options else "channels_per_group", None)
    kept = {name: value for name, value in kept.items() if name in accepted and _fits(target, name, value)}
    given = dict(target.options)
    features = norm.num_features if isinstance(norm.num_features, int) else 1
    for name, most in (("num_groups", features // 2), ("channels_per_group", features)):
        wanted = given.get(name)
        if wanted is not None and wanted >= 1 and features % wanted:
            given[name] = max([d for d in range(1, min(wanted, most) + 1) if features % d == 0], default=1)
            notes.append(f"{name}={given[name]}, as {wanted} does not divide {features} channels")
    return {**kept, **given}


def _fits(target: Target, name: str, value: Any) -> bool:
    """Return whether an option means in the new norm what it means in torch's."""
    if value == target.facts.arguments[name]:
        return False
    if name == "momentum":
        value = None  # which only a momentum like torch's may be
    try:
        check_values(target.facts.name, target.build, {name: value})
    except (TypeError, ValueError):
        return False
    return True


def _carry_affine(
    layer: nn.Module, norm: Norm, new: nn.Module, notes: list[str]
) -> tuple[dict[str, str], dict[str, tuple[str, float]]]:
    """Give the new norm the layer's weight and bias, as the same objects where they mean the same."""
    shared: dict[str, str] = {}
    shifted: dict[str, tuple[str, float]] = {}
    offsets = {"weight": norm.weight_offset, "bias": 0.0}
    for role, neutral in (("weight", 1.0), ("bias", 0.0)):
        name, own = getattr(norm, role), getattr(new, role)
        if name is None and isinstance(own, nn.Parameter) and (norm.weight, norm.bias) != (None, None):
            own.requires_grad_(False)
            notes.append(f"{role}, which the layer does not have, is fixed at {neutral:g}")
        if name is None:
            continue
        old, offset = getattr(layer, name), offsets[role]
        new_offset = float(getattr(new, "weight_offset", 0.0)) if role == "weight" else 0.0
        # What scales by 1 and shifts by 0 at first is a scale and a shift; GRN's weight of zeros is neither.
        fits = (
            isinstance(own, Tensor)
            and own.shape == old.shape
            and bool(own.is_meta or (own + new_offset == neutral).all())
        )
        if not fits:
            notes.append(
                f"its {name} is left out" if own is None else f"its {name} means something else here: {role} is new"
            )
        elif isinstance(old, nn.Parameter) and role in new._parameters and offset == new_offset:
            new._parameters[role] = old
            shared[name] = role
        else:
            with torch.no_grad():
                own.copy_(old + (offset - new_offset))
            if role in new._parameters and isinstance(old, nn.Parameter):
                own.requires_grad_(old.requires_grad)
                shifted[name] = (role, new_offset - offset)
                notes.append(f"{role} is {offset - new_offset:+g} to its {name}")
            elif isinstance(old, nn.Parameter):
                notes.append(f"its {name} is fixed, no longer a parameter")
    return shared, shifted


def _carry_statistics(
    layer: nn.Module, norm: Norm, target: Target, new: nn.Module, notes: list[str]
) -> tuple[dict[str, str], bool]:
    """Give the new norm the layer's running statistics, as the same tensors, if it takes the same ones.

    Also tell whether it has others, which are new.
    """
    shared: dict[str, str] = {}
    if norm.over and norm.over == statistics_over(target.facts.name):
        for role, name in STATISTICS.items():
            own, old = new._buffers.get(name), layer._buffers.get(getattr(norm, role) or "")
            if own is not None and old is not None and own.shape == old.shape:
                new._buffers[name] = old
                shared[getattr(norm, role)] = name
    if type(layer) is type(new):  # state of its own, such as a gate
        own_state: list[tuple[dict[str, Any], dict[str, Any]]]
        own_state = [(new._parameters, layer._parameters), (new._buffers, layer._buffers)]
        for mine, theirs in own_state:
            for name, tensor in theirs.items():
                known = name in shared or tensor is None or mine.get(name) is None
                if not known and mine[name].shape == tensor.shape:
                    mine[name] = tensor
                    shared[name] = name
    new_ones = [n for n, b in new._buffers.items() if b is not None and n not in shared.values()]
    fresh = bool(({*new_ones} - {"num_batches_tracked"}) & {*target.facts.state, "running_mean", "running_var"})
    if fresh:
        notes.append(f"new: {', '.join(new_ones)}; recalibrate it, or pass loader=")
    elif norm.over and not {norm.mean, norm.var} & shared.keys():
        notes.append("no use for the running statistics")
    return shared, fresh
