"""Put norms in the place of others, and take them out again."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norm_act import call_me
from normzoo.surgery._successor import Successor
from normzoo.surgery.report import SurgeryError

HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
)


class Swap:
    """The layers of a model that were replaced, by those that replaced them.

    Attributes:
        model: The model after it; another object only if the model itself was replaced.
        unnested: The names of encoders that make nested tensors no more.
    """

    def __init__(
        self, model: nn.Module, successors: Mapping[nn.Module, Successor], optimizer: torch.optim.Optimizer | None
    ) -> None:
        self._original = model
        self._successors = dict(successors)
        self._places = [
            (parent, key, child)
            for parent in model.modules()
            for key, child in parent._modules.items()
            if child is not None and child in successors
        ]
        self._like = {layer: _like(successor.norm) for layer, successor in successors.items()}
        self._values: list[tuple[Tensor, Tensor]] = []
        self._own_hooks = {layer: _share_hooks(layer, s.layer) for layer, s in successors.items()}
        for parent, key, child in self._places:
            parent._modules[key] = successors[child].layer
        self.model = successors[model].layer if model in successors else model
        encoders = [(n, m) for n, m in self.model.named_modules() if isinstance(m, nn.TransformerEncoder)]
        replaced = {s.layer for s in successors.values()}
        nested = [(n, m) for n, m in encoders if m.use_nested_tensor and any(x in replaced for x in m.modules())]
        self.unnested = [name for name, _ in nested]
        self._nested = [encoder for _, encoder in nested]
        for encoder in self._nested:
            encoder.use_nested_tensor = False
        self._optimizer = optimizer
        self._groups = [list(group["params"]) for group in optimizer.param_groups] if optimizer else []
        if optimizer:
            self._enter(optimizer)

    def remember(self, tensor: Tensor) -> None:
        """Give the parameter or buffer back the value that it has now, when all is undone."""
        self._values.append((tensor, tensor.detach().clone()))

    def undo(self) -> nn.Module:
        """Put the old layers back, with the current values of all that they share; return the model.

        Raises:
            SurgeryError: If a layer was replaced again since.
        """
        for parent, key, child in self._places:
            if parent._modules.get(key) is not self._successors[child].layer:
                raise SurgeryError(
                    f"{key} of {type(parent).__name__} was replaced again since: undo the later operation first"
                )
        for parent, key, child in self._places:
            parent._modules[key] = child
        for tensor, value in self._values:
            tensor.data.copy_(value)
        for layer, successor in self._successors.items():
            self._restore(layer, successor)
        for encoder in self._nested:
            encoder.use_nested_tensor = True
        if self._optimizer:
            self._leave(self._optimizer)
        return self._original

    def _restore(self, layer: nn.Module, successor: Successor) -> None:
        norm = successor.norm
        now, before = _like(norm), self._like[layer]
        if now is not None and before is not None and (now.device, now.dtype) != (before.device, before.dtype):
            layer.to(now.device, now.dtype)
        for name, new in successor.shared.items():
            for own, theirs in ((layer._parameters, norm._parameters), (layer._buffers, norm._buffers)):
                if own.get(name) is not None and theirs.get(new) is not None:
                    own[name] = theirs[new]  # type: ignore[assignment]
        with torch.no_grad():
            for name, (new, less) in successor.shifted.items():
                layer.get_parameter(name).copy_(norm.get_parameter(new) + less)
        for hooks, key in self._own_hooks[layer]:
            hooks.pop(key, None)
        layer.training = successor.layer.training

    def _enter(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace in the optimizer the parameters that are no longer used by those that take their place."""
        used = {id(p) for p in self.model.parameters()}
        known = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for layer, successor in self._successors.items():
            old = [p for p in layer.parameters(recurse=False) if id(p) in known]
            group = known[id(old[0])] if old else optimizer.param_groups[0]
            for name, (new, _) in successor.shifted.items():
                _hand_over(optimizer, layer.get_parameter(name), successor.norm.get_parameter(new))
            for p in successor.norm.parameters():
                if id(p) not in known and p.requires_grad:
                    group["params"].append(p)
                    known[id(p)] = group
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) in used or not self._is_old(p)]

    def _is_old(self, parameter: nn.Parameter) -> bool:
        return any(parameter is p for layer in self._successors for p in layer.parameters(recurse=False))

    def _leave(self, optimizer: torch.optim.Optimizer) -> None:
        for layer, successor in self._successors.items():
            for name, (new, _) in successor.shifted.items():
                _hand_over(optimizer, successor.norm.get_parameter(new), layer.get_parameter(name))
        for group, before in zip(optimizer.param_groups, self._groups, strict=False):
            group["params"] = before
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for p in [p for p in optimizer.state if id(p) not in held]:
            del optimizer.state[p]


def _hand_over(optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter) -> None:
    """Let the optimizer go on with another parameter, which has the same gradients."""
    if old in optimizer.state:
        optimizer.state[new] = optimizer.state.pop(old)


def _like(norm: nn.Module) -> Tensor | None:
    tensor = next((t for t in (*norm.parameters(), *norm.buffers()) if t.is_floating_point()), None)
    return None if tensor is None else torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def _share_hooks(layer: nn.Module, new: nn.Module) -> list[tuple[dict[int, Any], int]]:
    """Let the new layer have the hooks of the old one, whose handles still remove them; return what was added."""
    added: list[tuple[dict[int, Any], int]] = []
    for name in HOOKS:
        hooks, own = vars(layer)[name], vars(new)[name]
        for key, hook in own.items():
            if hook is not call_me or call_me not in hooks.values():
                hooks[key] = hook
                added.append((hooks, key))
        new.__dict__[name] = hooks
    new.__dict__["_is_full_backward_hook"] = layer._is_full_backward_hook
    return added
