"""Put around a new norm what the layer it replaces did besides: activation, layout, further arguments."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from normzoo.norm_act import NormAct
from normzoo.registry import facts_of
from normzoo.surgery.identify import Norm
from normzoo.surgery.report import SurgeryError


class Adapted(NormAct):
    """A norm in the place of a layer whose channels come last, or whose forward takes more than the input.

    Shape: as that layer's.
    """

    channels_last = False
    arguments: Mapping[str, Any] = {}
    """What the forward of that layer takes besides the input, and the defaults."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = [*self.arguments, *(f"argument {i}" for i in range(len(args)))]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        given = {name: value for name, value in given.items() if value is not self.arguments.get(name)}
        accepted = inspect.signature(type(self.norm).forward).parameters
        for name in given.keys() - accepted.keys():
            raise SurgeryError(f"{type(self.norm).__name__} has no use for {name}, which the layer it replaced took")
        mask = given.get("mask")
        if self.channels_last and isinstance(mask, Tensor) and mask.dim() == input.dim():
            given["mask"] = mask.movedim(-1, 1)
        x = self.norm(input.movedim(-1, 1) if self.channels_last else input, **given)
        x = x.movedim(1, -1) if self.channels_last else x
        for layer in list(self)[1:]:
            x = layer(x)
        return x


def adapted(layer: nn.Module, norm: Norm, new: nn.Module, notes: list[str]) -> nn.Module:
    """Put around the new norm what the layer does besides: its activation, its layout, its further arguments."""
    after = [(name, layer.get_submodule(name)) for name in norm.after]
    if getattr(new, "includes_activation", False):
        notes.append("it ends in an activation of its own" + (f", in the place of {norm.after[-1]}" if after else ""))
        after = [(name, child) for name, child in after if "act" not in name]
    last = norm.channel_dim == -1 and getattr(new, "channel_dim", 1) == 1
    _, _, *taken = inspect.signature(type(layer).forward).parameters.values()
    # A norm of ours that has one too many says so itself.
    arguments = {} if facts_of(layer) else {p.name: p.default for p in taken}
    if last or arguments.keys() - inspect.signature(type(new).forward).parameters.keys() or (after and arguments):
        outer: NormAct = Adapted(new, *after)
        outer.channels_last, outer.arguments = last, arguments
    elif after:
        outer = NormAct(new, *after)
    else:
        return new
    outer.training = layer.training
    return outer
