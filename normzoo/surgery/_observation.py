"""Observe a model on one sample, in evaluation and in training, and leave it as it was."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from normzoo.registry import info
from normzoo.surgery.batches import Forward, input_of, run_batch, same_random_numbers
from normzoo.surgery.call_order import Call, observe, tensors_in, unchanged
from normzoo.surgery.identify import Norm, find_norms
from normzoo.surgery.report import SurgeryError
from normzoo.surgery.running import moves, running_statistics

Shapes = dict[nn.Module, list[torch.Size]]


@dataclasses.dataclass(frozen=True)
class Training:
    """How the model is trained; see `normzoo.surgery.doctor.doctor`."""

    batch: int
    devices: int = 1
    accumulated: int = 1
    train_size: int | None = None
    drop_last: bool = False
    norm_layer: str | None = None
    optimizers: tuple[torch.optim.Optimizer, ...] | None = None


@dataclasses.dataclass
class Observation:
    """What the norms of a model did.

    Attributes:
        samples: In the sample.
        norms: Name, layer and description of each.
        shapes: Of the inputs of each norm's calls in one evaluation.
        calls: The calls of norms, and of layers with a bias, in evaluation.
        failed: The norm whose evaluation raised, and its message.
        trained: The modules that `model.train()` puts into training mode.
        training_shapes: As `shapes`, in the forward of training.
        moved: The layers whose running statistics training moved in its forward.
        moved_again: Those whose running statistics moved in the backward too.
        training_error: Why there is no training pass; None if there is one.
    """

    model: nn.Module
    plan: Training
    samples: int
    norms: list[tuple[str, nn.Module, Norm]]
    shapes: Shapes = dataclasses.field(default_factory=dict)
    calls: list[Call] = dataclasses.field(default_factory=list)
    failed: tuple[nn.Module, str] | None = None
    trained: set[nn.Module] = dataclasses.field(default_factory=set)
    training_shapes: Shapes = dataclasses.field(default_factory=dict)
    moved: set[nn.Module] = dataclasses.field(default_factory=set)
    moved_again: set[nn.Module] = dataclasses.field(default_factory=set)
    training_error: str | None = None

    def batch_norms(self) -> Iterator[tuple[str, nn.Module, Norm]]:
        """Yield the norms that normalize by the batch in training."""
        for name, layer, norm in self.norms:
            if norm.equation and info(norm.equation).batch_dependent and layer in self.trained:
                yield name, layer, norm

    def values(self, layer: nn.Module, norm: Norm, batch: int | None = None) -> int | None:
        """Count the values in the layer's smallest statistic, for a batch per device; None if it has none."""
        batch = self.plan.batch if batch is None else batch
        counts = [
            self._count(layer, norm, (max(1, shape[0] * batch // self.samples), *shape[1:]))
            for shape in self.shapes.get(layer, ())
            if len(shape) > 1
        ]
        return min((count for count in counts if count is not None), default=None)

    def _count(self, layer: nn.Module, norm: Norm, shape: Sequence[int]) -> int | None:
        channels, size = shape[norm.channel_dim], math.prod(shape)
        if not norm.equation or not channels or info(norm.equation).minimum_count < 2:
            return None
        if norm.equation == "sync_batch_norm":
            return size // channels * self.plan.devices
        own: Any = getattr(layer, "values_per_statistic", None)
        if own is not None:
            return int(own(shape))
        of = info(norm.equation).reduces_over
        counts = {"N, *": size // channels, "*": size // channels // shape[0], "C, *": size // shape[0], "C": channels}
        return size // shape[0] // norm.num_groups if of == "C/G, *" and norm.num_groups else counts.get(of)


def observe_training(model: nn.Module, sample: Any, plan: Training, forward: Forward | None) -> Observation:
    """Run the sample once in evaluation, and once forward and backward in training; the model stays as it was.

    Raises:
        SurgeryError: If the model cannot take the sample.
    """
    samples = next((len(t) for t in tensors_in(input_of(model, sample)) if t.dim()), 1)
    found = list(find_norms(model))
    seen = Observation(model, plan, max(1, samples), found)
    norms = {layer for _, layer, _ in found}
    biased = {m for m in model.modules() if m._parameters.get("bias") is not None}
    with unchanged(model):
        with _listening(norms) as heard:
            try:
                seen.calls, _ = observe(model, norms | biased, sample, forward)
            except SurgeryError as error:
                if heard.within is None:
                    raise
                seen.failed = heard.within, str(error.__cause__)
        seen.shapes = heard.shapes
        seen.norms = list(find_norms(model, {layer: shapes[0] for layer, shapes in heard.shapes.items()}))
        model.train()
        seen.trained = {module for module in model.modules() if module.training}
        with _listening(norms) as heard:
            try:
                _train_once(seen, heard, sample, forward or run_batch)
            except Exception as error:
                seen.training_error = f"{type(error).__name__}: {error}"
    return seen


def _train_once(seen: Observation, heard: "_Heard", sample: Any, forward: Forward) -> None:
    """Run forward and backward on copies of the parameters, which have neither gradients nor hooks to lose."""
    waiting = set()
    if dist.is_available() and dist.is_initialized():
        waiting = {layer for _, layer, norm in seen.norms if norm.equation == "sync_batch_norm"}
    for layer in waiting:
        layer.training = False  # in training it would wait for the other processes
    running = {
        layer: [layer.get_buffer(name) for name in running_statistics(layer)]
        for layer in seen.model.modules()
        if moves(layer)
    }

    def values() -> dict[nn.Module, list[Tensor]]:
        return {layer: [buffer.clone() for buffer in buffers] for layer, buffers in running.items()}

    def changed(before: dict[nn.Module, list[Tensor]], after: dict[nn.Module, list[Tensor]]) -> set[nn.Module]:
        return {
            layer
            for layer, buffers in before.items()
            if any(not torch.equal(a, b) for a, b in zip(buffers, after[layer], strict=True))
        }

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = seen.model

        def forward(self) -> None:
            before = values()
            result = forward(self.model, sample)
            between = values()
            seen.training_shapes = {layer: list(shapes) for layer, shapes in heard.shapes.items()}
            seen.moved = changed(before, between)
            losses = [t.float().sum() for t in tensors_in(result) if t.requires_grad]
            if losses:
                torch.stack(losses).sum().backward()
            seen.moved_again = changed(between, values())

    copies = {f"model.{n}": p.detach().requires_grad_(p.requires_grad) for n, p in seen.model.named_parameters()}
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"), same_random_numbers(seen.model):
        functional_call(Step(), copies, ())
    seen.moved |= waiting


@dataclasses.dataclass
class _Heard:
    shapes: Shapes = dataclasses.field(default_factory=dict)
    within: nn.Module | None = None


@contextlib.contextmanager
def _listening(norms: set[nn.Module]) -> Iterator[_Heard]:
    """Note the shapes that norms get, and within which of them an exception was raised."""
    heard = _Heard()

    def enter(layer: nn.Module, args: Any, kwargs: Any) -> None:
        x = next(tensors_in([args, kwargs]), None)
        heard.shapes.setdefault(layer, []).append(torch.Size() if x is None else x.shape)
        heard.within = layer

    def leave(layer: nn.Module, args: Any, result: Any) -> None:
        heard.within = None

    with contextlib.ExitStack() as stack:
        for layer in norms:
            if not isinstance(layer, torch.jit.ScriptModule):
                stack.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(layer.register_forward_hook(leave).remove)
        yield heard
