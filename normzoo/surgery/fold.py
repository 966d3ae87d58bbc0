"""Fold norms that evaluate with running statistics into the convolution or linear layer before or after them."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from normzoo.norm_act import call_me
from normzoo.surgery.batches import Forward, unwrap
from normzoo.surgery.call_order import Call, observe
from normzoo.surgery.channel_map import apply, scale_and_shift
from normzoo.surgery.report import Report, Row, SurgeryError

CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of the largest value

Foldable = _ConvNd | nn.Linear


class _Kept(Exception):
    """Why a norm is kept."""


def fold(model: nn.Module, sample: Any, *, forward: Forward | None = None) -> Report:
    """Fold each norm that is a scale and a shift of each channel in evaluation into its convolution or linear layer.

        after it:   s (W x + b) + t = (s W) x + (s b + t),   s = weight / sqrt(running_var + eps),
        before it:  W (s x + t) + b = (W s) x + (W t + b),   t = bias − s · running_mean

    Which layer gives what to which is seen in one run, not read from the order of definition. A norm is kept, and the
    report says why, where a fold would not be exact: in training mode; called twice, or not at all; with hooks or
    weights that are shared; where something else uses what is between both; before a convolution that pads with zeros.
    Each fold is checked on the sample.

    Args:
        model: In evaluation mode; changed in place. A folded norm leaves `nn.Identity`, or the activation it had.
        sample: One batch, as for `recalibrate`.
        forward: How to call the model on it, if not as there: `lambda model, batch: model(batch["image"])`.

    Returns:
        What became of each norm; `undo()` of it puts back norms, weights and biases.

    Raises:
        SurgeryError: If no layer evaluates with running statistics.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """
    model = unwrap(model)
    names = {layer: name for name, layer in model.named_modules()}
    norms = [layer for layer in names if _has_statistics(layer)]
    if not norms:
        raise SurgeryError(f"fold: no layer of {type(model).__name__} evaluates with running statistics")
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise SurgeryError(f"fold: {type(model).__name__} is on the meta device: load its weights first")
    calls, _ = observe(model, {*norms, *(layer for layer in names if isinstance(layer, Foldable))}, sample, forward)
    rows: list[Row] = []
    undone: list[Callable[[], None]] = []
    for norm in norms:
        kind = type(norm).__name__
        try:
            other = _fold(model, norm, calls, undone)
            rows.append(Row(names[norm], kind, f"{type(other).__name__} {names[other]}", "folded"))
        except _Kept as kept:
            rows.append(Row(names[norm], kind, kind, "kept", str(kept)))

    def undo() -> nn.Module:
        for step in reversed(undone):
            step()
        return model

    return Report(model, rows, undo, "norm with running statistics")


def _has_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) or any(n.startswith("running_") for n, _ in layer.named_buffers(recurse=False))


@torch.no_grad()
def _fold(model: nn.Module, norm: nn.Module, calls: list[Call], undone: list[Callable[[], None]]) -> nn.Module:
    """Fold one norm and return the layer that it is now in; add what undoes it to `undone`."""
    if isinstance(norm, torch.jit.ScriptModule):
        raise _Kept("it is scripted: fold before torch.jit.script")
    if norm.training:
        raise _Kept("it is in training mode: call model.eval() first")
    call = _only_call(norm, calls)
    _check_own(model, norm)
    axis = getattr(norm, "channel_dim", 1) % call.input.dim()
    found = scale_and_shift(norm, call.input, axis)
    if found is None:
        raise _Kept("its output in evaluation is not a scale and a shift of each channel")
    scale, shift, after = found
    before = call.source
    behind = [c for c in calls if c.source is call]
    if before is not None and isinstance(before.layer, Foldable):
        layer, source = before.layer, before
        _only_user(before, norm)
        own_axis = before.output.dim() - _rank(layer)  # type: ignore[union-attr]
        if not _same_channels(call.input, axis, before.output, own_axis):
            raise _Kept(f"its channels are not those of the {type(layer).__name__} before it")
    elif len(behind) == 1 and isinstance(behind[0].layer, Foldable) and not after:
        layer, source, own_axis = behind[0].layer, behind[0], None
        _only_user(call, layer)
        if isinstance(layer, _ConvTransposeNd):
            raise _Kept("it is before a transposed convolution, whose border gets less of a shift")
        if not _same_channels(call.output, axis, source.input, source.input.dim() - _rank(layer)):
            raise _Kept(f"its channels are not those of the {type(layer).__name__} behind it")
    else:
        raise _Kept("no convolution or linear layer gives its input or gets its output directly")
    _only_call(layer, calls)
    _check_own(model, layer)
    x = source.input
    if own_axis is not None:
        expected = apply(layer.forward(x.clone()), scale, shift, own_axis)
        weight, bias = _behind(layer, scale, shift)
    else:
        expected = layer.forward(apply(x, scale, shift, x.dim() - _rank(layer)))
        weight, bias = _before(layer, scale, shift)
    undo = _load(layer, weight, bias)
    error = (layer.forward(x.clone()) - expected).abs().max()
    if not bool(error <= CLOSE.get(x.dtype, 1e-4) * expected.abs().max().clamp(min=1e-6)):
        undo()
        padded = own_axis is None and isinstance(layer, _ConvNd) and layer.padding_mode == "zeros"
        reason = "it pads with zeros, which the norm before it shifts" if padded else "its output is not linear in it"
        raise _Kept(f"{type(layer).__name__} cannot take it: {reason}")
    undone.extend([undo, _replace(model, norm, nn.Sequential(*after) if after else nn.Identity())])
    return layer


def _only_call(layer: nn.Module, calls: list[Call]) -> Call:
    own = [call for call in calls if call.layer is layer]
    if len(own) != 1:
        times = f"called {len(own)} times, at places that one fold cannot serve" if own else "not called on the sample"
        raise _Kept(f"{type(layer).__name__} is {times}")
    return own[0]


def _only_user(call: Call, user: nn.Module) -> None:
    others = [each for each in call.users if each is not user]
    if others:
        code = "the model's own code"
        who = type(others[0]).__name__ if isinstance(others[0], nn.Module) else others[0] or code
        raise _Kept(f"{who} uses the output of {type(call.layer).__name__} too")


def _check_own(model: nn.Module, layer: nn.Module) -> None:
    """Check that the layer's weights are its own, and that nobody watches or changes what goes through it."""
    kind = type(layer).__name__
    hooks = [*layer._forward_pre_hooks.values(), *layer._forward_hooks.values()]
    if any(hook is not call_me for hook in hooks):
        raise _Kept(f"{kind} has forward hooks, which would see something else")
    if isinstance(layer, Foldable):
        owners = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
        if layer._parameters.get("weight") is None:
            raise _Kept(f"{kind} computes its weight, by a parametrization")
        if any(owners[id(p)] > 1 for p in layer._parameters.values() if p is not None):
            raise _Kept(f"{kind} shares its weight with another layer")


def _rank(layer: Foldable) -> int:
    """Count the dimensions of an input from its channels on."""
    return 1 if isinstance(layer, nn.Linear) else 1 + len(layer.kernel_size)


def _same_channels(a: Tensor | None, axis_a: int, b: Tensor | None, axis_b: int) -> bool:
    """Return whether two views of the same values have the same channels at these dimensions."""
    if a is None or b is None or a.numel() != b.numel() or a.shape[axis_a] != b.shape[axis_b]:
        return False
    return a.shape[axis_a] == 1 or a.stride(axis_a) == b.stride(axis_b)


def _behind(layer: Foldable, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the layer with the norm behind it."""
    weight, bias = layer.weight.double(), 0 if layer.bias is None else layer.bias.double()
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, *)
        by_group = scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        return (weight.unflatten(0, (layer.groups, -1)) * by_group).flatten(0, 1), bias * scale + shift
    return weight * scale.view(-1, *[1] * (weight.dim() - 1)), bias * scale + shift


def _before(layer: Foldable, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the layer with the norm before it."""
    weight, bias = layer.weight.double(), 0 if layer.bias is None else layer.bias.double()
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    scale, shift = (
        s.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).flatten(0, 1)[..., *[None] * (weight.dim() - 2)]
        for s in (scale, shift)
    )
    return weight * scale, bias + (weight * shift).flatten(1).sum(1)


def _load(layer: Foldable, weight: Tensor, bias: Tensor) -> Callable[[], None]:
    """Give the layer these; return what undoes it."""
    old, old_bias = layer.weight.detach().clone(), layer.bias
    kept = torch.empty(0) if old_bias is None else old_bias.detach().clone()

    def undo() -> None:
        layer.weight.data.copy_(old)
        layer.bias = old_bias
        if old_bias is not None:
            old_bias.data.copy_(kept)

    layer.weight.data.copy_(weight)
    if old_bias is None:
        layer.bias = nn.Parameter(bias.to(old.dtype), requires_grad=layer.weight.requires_grad)
    else:
        old_bias.data.copy_(bias)
    return undo


def _replace(model: nn.Module, norm: nn.Module, new: nn.Module) -> Callable[[], None]:
    """Put another layer at every place of a norm; return what undoes it."""
    places = [(parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is norm]
    new.train(norm.training)
    for parent, name in places:
        setattr(parent, name, new)

    def undo() -> None:
        for parent, name in places:
            setattr(parent, name, norm)

    return undo
