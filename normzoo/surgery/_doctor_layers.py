"""Checks of the layers of a model: what is next to a norm, what holds its state, and who trains it."""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normzoo.registry import facts_of, info
from normzoo.surgery._observation import Observation
from normzoo.surgery.call_order import Call
from normzoo.surgery.findings import Finding
from normzoo.surgery.freeze import is_new, norm_parameters
from normzoo.surgery.identify import Norm
from normzoo.surgery.running import moves, running_statistics, statistics_frozen

ACTIVATIONS = (
    *("relu", "relu6", "hardtanh", "leaky_relu", "elu", "celu", "gelu", "silu", "mish", "hardswish", "sigmoid"),
    *("tanh", "softplus", "prelu", "selu", "_prelu_kernel", "clamp_min"),
)
SUBTRACT_THE_MEAN = ("batch_norm", "batch_norm_scratch", "sync_batch_norm", "instance_norm", "instance_norm_scratch")


def swallowed(seen: Observation) -> Iterator[Finding]:
    """Norms that `norm_layer=` did not reach."""
    asked = seen.plan.norm_layer
    own = [layer for _, layer, _ in seen.norms if facts_of(layer) is not None]
    for name, layer, norm in seen.norms:
        kind = norm.equation or type(layer).__name__
        if asked is not None and norm.equation != info(asked).name:
            reason = f"it computes {kind}, though the model was built with {info(asked).name}"
            fix = f'normzoo.convert(model, "{info(asked).name}")'
            yield Finding("swallowed", "warning", (name,), reason, fix, "normzoo.convert")
        elif asked is None and own and layer not in own:
            reason = f"{type(layer).__name__} is among norms of normzoo: norm_layer= may not have reached it"
            yield Finding("swallowed", "note", (name,), reason, "if so, convert it", "normzoo.convert")


def useless_bias(seen: Observation) -> Iterator[Finding]:
    """A bias whose only use is a norm that subtracts it again with the mean."""
    names = {layer: name for name, layer in seen.model.named_modules()}
    norms = {layer: norm for _, layer, norm in seen.batch_norms()}
    norms |= {layer: norm for _, layer, norm in seen.norms if norm.equation in SUBTRACT_THE_MEAN and not norm.over}
    for call in seen.calls:
        source = call.source
        if source is None or call.layer not in norms or source.layer in norms or not _only_for(source, call.layer):
            continue
        if norms[call.layer].equation in SUBTRACT_THE_MEAN or _ignores_shift(call.layer, norms[call.layer], call.input):
            reason = f"{names[call.layer]} subtracts its bias with the mean: it is trained for nothing"
            fix = "build it with bias=False; after training, fold both into one layer"
            yield Finding("useless_bias", "note", (names[source.layer],), reason, fix, "normzoo.fold")


def double_activation(seen: Observation) -> Iterator[Finding]:
    """An activation behind a norm that has one of its own, such as FRN, EvoNorm and norm+act layers."""
    norms = {layer: (name, norm) for name, layer, norm in seen.norms}
    for call in seen.calls:
        follow = [operation for operation in call.operations if operation.rstrip("_") in ACTIVATIONS]
        if not follow or call.layer not in norms:
            continue
        name, norm = norms[call.layer]
        known = bool(norm.equation) and not norm.after
        if bool(getattr(call.layer, "includes_activation", False)) if known else _is_not_odd(call.layer, call.input):
            reason = f"it includes an activation, and {follow[0].strip('_')} follows: FRN and EvoNorm replace both"
            fix = "replace the activation behind it by nn.Identity"
            yield Finding("double_activation", "warning", (name,), reason, fix, "torch.nn.Identity")


def dead(seen: Observation) -> Iterator[Finding]:
    """A frozen weight of zeros."""
    for name, layer, norm in seen.norms:
        weight = getattr(layer, norm.weight or "weight", None)
        if not isinstance(weight, Tensor) or weight.requires_grad or weight.is_meta or norm.weight_offset:
            continue
        if weight.numel() and not bool(weight.any()):
            reason = "its weight is frozen at zero: its output is its bias, and nothing before it learns"
            fix = "normzoo.unfreeze(model), then normzoo.freeze(model, affine=False)"
            yield Finding("dead", "error", (name,), reason, fix, "normzoo.unfreeze")


def orphans(seen: Observation) -> Iterator[Finding]:
    """Parameters that the optimizer lacks, and those that it holds though the model no longer has them."""
    if seen.plan.optimizers is None:
        return
    held = {p for optimizer in seen.plan.optimizers for group in optimizer.param_groups for p in group["params"]}
    fix = "build the optimizer after the last change of the model, or pass optimizer= to what changes it"
    for name, parameter in seen.model.named_parameters():
        if parameter.requires_grad and parameter not in held:
            reason = "it has parameters that require gradients and are in no optimizer: they are not trained"
            yield Finding("orphans", "warning", (name.rpartition(".")[0],), reason, fix, "normzoo.convert")
    if lost := len(held - set(seen.model.parameters())):
        reason = f"the optimizer holds {lost} parameter{'s' * (lost > 1)} that the model does not have"
        yield Finding("orphans", "warning", (), reason, fix, "normzoo.convert")


def decayed(seen: Observation) -> Iterator[Finding]:
    """Weight decay on the parameters of norms."""
    groups = [group for optimizer in seen.plan.optimizers or () for group in optimizer.param_groups]
    decays = {p: group["weight_decay"] for group in groups if group.get("weight_decay") for p in group["params"]}
    own = set(norm_parameters(seen.model)) & set(decays)
    for name, parameter in seen.model.named_parameters():
        if parameter in own:
            reason = f"a weight decay of {decays[parameter]:g} pulls its weight and bias to zero"
            fix = "build the optimizer of normzoo.no_weight_decay_groups(model, weight_decay)"
            yield Finding("decayed", "note", (name.rpartition(".")[0],), reason, fix, "normzoo.no_weight_decay_groups")


def half_precision(seen: Observation) -> Iterator[Finding]:
    """Running statistics in half precision, in which a small step is rounded away."""
    for name, layer in seen.model.named_modules():
        kinds = {layer.get_buffer(buffer).dtype for buffer in running_statistics(layer)} if moves(layer) else set()
        for dtype in kinds & {torch.float16, torch.bfloat16}:
            kind = str(dtype).removeprefix("torch.")
            reason = f"its running statistics are {kind}: small steps are rounded away, and large variances overflow"
            fix = "keep the norm in float32: layer.float() and autocast"
            yield Finding("half_precision", "warning", (name,), reason, fix, "torch.nn.Module.float")


def not_updated(seen: Observation) -> Iterator[Finding]:
    """Running statistics that training does not move, or that were never moved before evaluation."""
    for name, layer in seen.model.named_modules():
        if not moves(layer) or statistics_frozen(layer) or not getattr(layer, "track_running_stats", True):
            continue
        new = not seen.model.training and not layer.training and is_new(layer)
        if new:
            reason = "it evaluates with the statistics of a new layer, mean 0 and variance 1"
            yield Finding("not_updated", "warning", (name,), reason, "recalibrate, or train it", "normzoo.recalibrate")
        if seen.training_error or layer in seen.moved:
            continue
        if layer not in seen.trained:
            reason = "it stays in evaluation after model.train(): its statistics are not updated"
            fix = "if this is meant, use normzoo.freeze, which says so"
            yield Finding("not_updated", "note", (name,), reason, fix, "normzoo.freeze")
            continue
        called = layer in seen.training_shapes or not any(layer is norm for _, norm, _ in seen.norms)
        why = f"momentum={getattr(layer, 'momentum', None)}" if called else "no forward of the sample calls it"
        reason = f"training does not update its running statistics: {why}"
        yield Finding("not_updated", "warning", (name,), reason, "recalibrate after training", "normzoo.recalibrate")


def checkpointed(seen: Observation) -> Iterator[Finding]:
    """Statistics that activation checkpointing moves a second time."""
    for name, layer in seen.model.named_modules():
        if layer in seen.moved_again:
            reason = "activation checkpointing runs it again in the backward, which moves its statistics twice"
            fix = 'normzoo.convert(model, "batch_norm"), which moves them once'
            yield Finding("checkpointed", "warning", (name,), reason, fix, "normzoo.convert")


def erased(norms: Iterable[tuple[str, nn.Module, Norm]]) -> Iterator[Finding]:
    """Norms that `sync_batchnorm=True` replaces by a plain SyncBatchNorm."""
    for name, layer, norm in norms:
        if not isinstance(layer, _BatchNorm) or norm.equation in ("sync_batch_norm", "batch_norm_scratch"):
            continue
        lost = f"its {', '.join(norm.after)}" if norm.after else ""
        if norm.equation != "batch_norm":
            lost = f"what makes it {norm.equation or type(layer).__name__}"
        if lost:
            reason = f"sync_batchnorm replaces it by SyncBatchNorm, without {lost}"
            fix = 'turn the flag off; normzoo.convert(model, "sync_batch_norm") keeps it'
            yield Finding("erased", "error", (name,), reason, fix, "normzoo.convert")


def bypassed(seen: Observation) -> Iterator[Finding]:
    """Norms that a fused path of torch's attention layers does not call."""
    for name, layer in seen.model.named_modules():
        if isinstance(layer, nn.TransformerEncoderLayer) and _fast_path_differs(layer):
            norms = tuple(f"{name}.{norm}".lstrip(".") for norm in ("norm1", "norm2"))
            reason = "in evaluation the fast path of TransformerEncoderLayer computes layer norm instead of it"
            fix = "convert to it with normzoo.convert, or torch.backends.mha.set_fastpath_enabled(False)"
            yield Finding("bypassed", "error", norms, reason, fix, "torch.backends.mha.set_fastpath_enabled")
        if isinstance(layer, nn.MultiheadAttention) and (
            layer.out_proj._forward_pre_hooks or layer.out_proj._forward_hooks
        ):
            reason = (
                "MultiheadAttention reads its weight and never calls it: a norm of its weight by a hook does nothing"
            )
            fix = "norm the weight by torch.nn.utils.parametrizations"
            inner = f"{name}.out_proj".lstrip(".")
            yield Finding("bypassed", "error", (inner,), reason, fix, "torch.nn.utils.parametrizations.weight_norm")


def _only_for(source: Call, norm: nn.Module) -> bool:
    within = set(norm.modules())
    return bool(source.users) and all(user in within for user in source.users)


def _ignores_shift(layer: nn.Module, norm: Norm, x: Tensor) -> bool:
    """Return whether the layer gives the same in training when a constant is added to each channel."""
    try:
        shift = torch.linspace(1, 2, x.shape[norm.channel_dim], device=x.device, dtype=x.dtype)
        shifted = (x.movedim(norm.channel_dim, -1) + shift).movedim(-1, norm.channel_dim)
        y, z = (copy.deepcopy(layer).train()(each) for each in (x, shifted))
    except Exception:  # whatever a stranger's layer says
        return False
    return torch.allclose(y, z, atol=1e-3)


def _is_not_odd(layer: nn.Module, x: Tensor) -> bool:
    """Return whether f(x) + f(−x) is not the same at all places of a channel, as it is for a norm alone."""
    try:
        x = torch.randn((max(4, len(x)), *x.shape[1:]), generator=torch.Generator().manual_seed(0)).to(x)
        twin = copy.deepcopy(layer).eval()
        total = twin(x) + twin(-x)
    except Exception:  # whatever a stranger's layer says
        return False
    flat = [total.movedim(dim, 0).flatten(1) for dim in (1, -1)]
    return all(bool(((t - t[:, :1]).abs() > 1e-3).any()) for t in flat)


def _fast_path_differs(layer: nn.TransformerEncoderLayer) -> bool:
    """Return whether a copy of the layer evaluates to something else without the fast path."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    try:
        twin = copy.deepcopy(layer).eval()
        x = torch.randn(2, 3, layer.self_attn.embed_dim, generator=torch.Generator().manual_seed(0))
        x = x.to(next(twin.parameters()))
        torch.backends.mha.set_fastpath_enabled(True)
        fast = twin(x)
        torch.backends.mha.set_fastpath_enabled(False)
        return not torch.allclose(fast, twin(x), rtol=1e-3, atol=1e-3)
    except Exception:  # of layers that do not evaluate, which the observation tells
        return False
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
