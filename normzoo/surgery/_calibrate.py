"""Calibrate converted norms on batches: new running statistics, and weights that keep each channel's moments."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norms._standardize import per_channel
from normzoo.surgery._successor import Successor
from normzoo.surgery.batches import run_batch
from normzoo.surgery.population import Population, merge, moments_of
from normzoo.surgery.recalibrate import finish, observed
from normzoo.surgery.report import SurgeryError
from normzoo.surgery.running import tracks

Moments = dict[nn.Module, Tensor]
"""Count, mean and sum of squared deviations of each channel, by layer."""


def moments(model: nn.Module, successors: Mapping[nn.Module, Successor], batches: Iterable[Any]) -> Moments:
    """Return the moments of what the layers to be replaced give, before their activation."""
    found: Moments = {}

    def add(layer: nn.Module, y: Tensor) -> None:
        new = moments_of(y, successors[layer].was.channel_dim)
        found[layer] = merge(found[layer], new) if layer in found else new

    with contextlib.ExitStack() as stack:
        for layer in [layer for layer, successor in successors.items() if _scales(successor)]:
            after = successors[layer].was.after
            if after:  # what the activation gets
                first = layer.get_submodule(after[0])
                hook = first.register_forward_pre_hook(lambda _, given, layer=layer: add(layer, given[0]))
            else:
                hook = layer.register_forward_hook(lambda layer, _, y: add(layer, y))
            stack.callback(hook.remove)
        _run(model, batches)
    return found


def _scales(successor: Successor) -> bool:
    """Return whether there is a weight for each channel that calibration may set."""
    norm = successor.norm
    weighted = isinstance(norm.weight, nn.Parameter) and norm.weight.numel() == successor.was.num_features
    return weighted and successor.differs and not getattr(norm, "includes_activation", False)


def calibrate(
    model: nn.Module,
    successors: Mapping[nn.Module, Successor],
    wanted: Moments,
    batches: Iterable[Any],
    remember: Callable[[Tensor], None],
) -> None:
    """Measure new running statistics, then set weight and bias so that each channel has the moments it had.

        weight = wanted std / std(x_hat) · sign(weight);  bias = wanted mean − weight · mean(x_hat)

    In one run, in which each layer corrects its output by what it has seen up to then, so that those after it get
    what they will get.

    Args:
        model: The converted model.
        successors: What replaced the layers.
        wanted: Of each replaced layer, from `moments`.
        batches: The same as for `moments`.
        remember: Called with each tensor before it is set.
    """
    names = {module: name for name, module in model.named_modules()}
    fresh = {names[s.norm]: s.norm for s in successors.values() if s.fresh and tracks(s.norm)}
    for norm in fresh.values():  # some may be the replaced layer's too
        for buffer in norm.buffers(recurse=False):
            remember(buffer)
    if fresh:
        finish(_run(model, batches, fresh), fresh)
    corrections = [_Correction(successors[layer].norm, moments, remember) for layer, moments in wanted.items()]
    with contextlib.ExitStack() as stack:
        for correction in corrections:
            stack.callback(correction.norm.register_forward_hook(correction).remove)
        _run(model, batches)
    for correction in corrections:
        correction.set()


class _Correction:
    """A hook that gives the outputs of a norm the wanted moments; `set` gives its weight and bias the values for it."""

    def __init__(self, norm: nn.Module, wanted: Tensor, remember: Callable[[Tensor], None]) -> None:
        self.norm, self.wanted = norm, wanted
        self.seen = torch.zeros_like(wanted)
        self.offset = float(getattr(norm, "weight_offset", 0.0))
        self.weight, self.bias = norm.weight, norm.bias
        self.before = self.weight.detach().to(wanted.dtype) + self.offset  # type: ignore[operator]
        for parameter, neutral in ((self.weight, 1 - self.offset), (self.bias, 0.0)):
            if isinstance(parameter, nn.Parameter):
                remember(parameter)
                parameter.data.fill_(neutral)

    def affine(self) -> tuple[Tensor, Tensor]:
        (n, mean, m2), (seen_n, seen_mean, seen_m2) = self.wanted, self.seen
        std, seen_std = (m2 / n.clamp(min=1)).sqrt(), (seen_m2 / seen_n.clamp(min=1)).sqrt()
        scale = torch.where((seen_std > 0) & (n > 0), std / seen_std * self.before.sign(), self.before)
        shift = torch.zeros_like(mean) if self.bias is None else mean - scale * seen_mean
        return scale, shift

    def __call__(self, norm: nn.Module, _: Any, y: Tensor) -> Tensor:
        channel_dim = getattr(norm, "channel_dim", 1)
        self.seen = merge(self.seen, moments_of(y, channel_dim))
        scale, shift = (per_channel(t.to(y.dtype), y, channel_dim) for t in self.affine())
        return y * scale + shift

    def set(self) -> None:
        scale, shift = self.affine()
        for parameter, value in ((self.weight, scale - self.offset), (self.bias, shift)):
            if isinstance(parameter, nn.Parameter):
                parameter.data.copy_(value)


@torch.no_grad()
def _run(
    model: nn.Module, batches: Iterable[Any], collected: Mapping[str, nn.Module] | None = None
) -> list[Population]:
    """Run all batches in evaluation, but for the layers whose statistics are collected and returned."""
    count = 0
    with observed(model, collected or {}) as populations:
        for batch in batches:
            run_batch(model, batch)
            count += 1
    if not count:
        raise SurgeryError("the loader gives no batch to calibrate on")
    return populations
