"""Measure saturated sigmoids and tanhs, dead ReLUs, and vanishing gradients, layer by layer."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.errors import UserError
from normzoo.probes._activations import watch_activations
from normzoo.probes._batches import as_batches, input_of
from normzoo.probes._callback import StepProbe, probe_batches, reduce_column
from normzoo.probes._gradients import Batch, Loss, gradient_at, l2_norm
from normzoo.probes._layers import weight_layers

MARGIN = 0.05


@dataclass(frozen=True)
class ActivationHealth:
    """The share of each layer's activations that pass no useful gradient.

    Attributes:
        layers: Names of the activations, in the order of their first calls, (A,).
        kinds: `relu`, `sigmoid`, `tanh` or `other`, (A,).
        saturated: Share of the values of a sigmoid or tanh near an end of its range, (A,); nan for other kinds.
        dead: Share of the channels of a ReLU that no sample and no position activates, (A,); nan for other kinds.
        inactive: Share of the values of a ReLU that are zero, (A,); nan for other kinds.
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    saturated: Tensor
    dead: Tensor
    inactive: Tensor


@dataclass
class _Counts:
    kind: str
    values: float = 0.0
    saturated: int = 0
    zero: int = 0
    alive: Tensor | None = None

    def shares(self) -> tuple[float, float, float]:
        """Return the saturated, dead and inactive share; nan where it does not apply, or if the input held nan."""
        if self.kind in ("sigmoid", "tanh"):
            return self.saturated / self.values, math.nan, math.nan
        if self.alive is None or math.isnan(self.values):
            return math.nan, math.nan, math.nan
        return math.nan, 1 - float(self.alive.double().mean()), self.zero / self.values


def activation_health(
    model: nn.Module, inputs: Iterable[Any], *, margin: float = MARGIN, channel_dim: int = 1
) -> ActivationHealth:
    """Measure the shares of saturated sigmoids and tanhs and of dead ReLUs in each layer, over all inputs together.

        saturated: closer than `margin` of the range to one of its ends:  sigmoid(x) < 0.05 or > 0.95;  |tanh(x)| > 0.9
        dead: a channel whose input is at most 0 for every sample, at every position, of every batch

    At the default margin the slope is below a fifth of the steepest. The threshold is a convention: Karpathy, Johnson &
    Fei-Fei 2015 (arXiv:1506.02078, section 4.2) call gates saturated below 0.1 and above 0.9. A ReLU that is dead for
    these inputs may be active for others, so use many. A layer whose input holds nan has nan shares. The model is
    measured in its current mode and left unchanged.

    Cost: one forward pass per batch.

    Args:
        model: Model to measure.
        inputs: Batches, each the input of the model, a tuple of inputs, (x, y) or ((x1, x2), y); or a single (x, y).
        margin: Share of the range, above 0 and below 0.5.
        channel_dim: Dimension of the channels.

    Raises:
        ValueError: If the margin is out of range.
        TypeError: If `inputs` is one tensor, or a tuple of two tensors of the same shape, which is ambiguous.

    Source: Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks, section 3
    (saturation); Lu, Shin, Su & Karniadakis 2019, Dying ReLU and initialization, arXiv:1903.06733 (dead ReLUs).
    """
    if not 0 < margin < 0.5:
        raise ValueError(f"margin must be above 0 and below 0.5, got {margin}")
    several = as_batches(inputs, "inputs", "a list, [x] for one")
    return _health(model, (input_of(model, batch) for batch in several), margin, channel_dim)


def _health(model: nn.Module, inputs: Iterable[Any], margin: float, channel_dim: int = 1) -> ActivationHealth:
    """Measure `activation_health` of inputs without targets."""
    # sigmoid(x) = (1 + tanh(x / 2)) / 2: both reach the margin where tanh is 1 − 2 · margin.
    ends = {"tanh": math.atanh(1 - 2 * margin), "sigmoid": 2 * math.atanh(1 - 2 * margin)}
    counts: dict[str, _Counts] = {}

    def observe(name: str, kind: str, x: Tensor) -> None:
        count = counts.setdefault(name, _Counts(kind))
        count.values += math.nan if bool(x.isnan().any()) else x.numel()
        if kind in ends:
            count.saturated += int((x.abs() > ends[kind]).sum())
        if kind == "relu":
            active = x > 0
            count.zero += int((~active).sum())
            alive = active.movedim(channel_dim, 0).flatten(1).any(1)
            count.alive = alive if count.alive is None else count.alive | alive

    for batch in inputs:
        watch_activations(model, batch, observe)
    shares = torch.tensor([count.shares() for count in counts.values()], dtype=torch.float64).view(-1, 3)
    return ActivationHealth(tuple(counts), tuple(count.kind for count in counts.values()), *shares.unbind(1))


def gradient_norms(model: nn.Module, loss: Loss, batch: Batch, *, across: bool = False) -> dict[str, float]:
    """Return ‖∂L/∂W_i‖₂ of each layer with a weight, by name, in the order of the model's modules.

    Gradients vanish if the norm shrinks from the last layer to the first, and explode if it grows. The model is
    measured in its current mode and left unchanged.

    Cost: one forward and backward pass.

    Raises:
        TypeError: If the batch is not a pair (input, target).
    """
    _, gradients = gradient_at(model, loss, batch, {}, across=across)
    return {
        layer: l2_norm({name: gradients[name] for name in names}) for layer, (_, names) in weight_layers(model).items()
    }


class ActivationHealthProbe(StepProbe):
    """Record `activation_health` and `gradient_norms` during training.

    Cost: two forward passes and one backward pass per measurement; with `samples`, a forward pass of those and a
    forward and backward pass of the batch.

    Recording: `health_step`; per row and activation `health_saturated`, `health_dead`, `health_inactive`; per row and
    layer with a weight `health_gradient_norms`; the names `health_layers`, `health_kinds`, `health_weights`. Summary,
    of the last measurement: `saturated` and `dead`, the mean share over layers of that kind; `saturated_worst` and
    `dead_worst`, the largest share over layers and steps; `gradient_decades`, log10 of the first layer's gradient norm
    over the last layer's in the first measurement.

    Args:
        every: Optimizer steps between measurements.
        samples: Measure activations on the first `samples` training images of each process, in batches of the training
            batch size; None for the batch of the step.
        margin: Margin of saturation.
        loss: `loss(output, target)`.
    """

    prefix = "health"

    def __init__(
        self, every: int = 10, samples: int | None = None, margin: float = MARGIN, loss: Loss = F.cross_entropy
    ) -> None:
        super().__init__(every)
        if not 0 < margin < 0.5:
            raise UserError(f"ActivationHealthProbe: margin={margin} must be above 0 and below 0.5")
        if samples is not None and samples < 1:
            raise UserError(f"ActivationHealthProbe: samples={samples} must be positive or null")
        self.samples, self.margin, self.loss = samples, margin, loss

    def measure(self, trainer: Any, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        """Measure activations and gradient norms."""
        measured = [batch] if self.samples is None else probe_batches(trainer, self.samples, len(batch[1]))
        found = _health(model, [x for x, _ in measured], self.margin)
        norms = gradient_norms(model, self.loss, batch, across=trainer.world_size > 1)
        self.names = {"layers": list(found.layers), "kinds": list(found.kinds), "weights": list(norms)}
        return {
            "saturated": found.saturated,
            "dead": found.dead,
            "inactive": found.inactive,
            "gradient_norms": torch.tensor(list(norms.values()), dtype=torch.float64),
        }

    def summary(self) -> dict[str, float | None]:
        """Return shares and gradient ratio; see the class."""
        found: dict[str, float | None] = {}
        for name, kinds in (("saturated", ("sigmoid", "tanh")), ("dead", ("relu",))):
            shares = self.column(name)
            columns = [i for i, kind in enumerate(self.names.get("kinds", ())) if kind in kinds]
            if columns and self.rows:
                known = shares[:, columns]
                found[name] = reduce_column(torch.mean, known[-1])
                found[f"{name}_worst"] = reduce_column(torch.max, known)
        norms = self.column("gradient_norms")[:1]
        if norms.numel():
            found["gradient_decades"] = float((norms[0, 0] / norms[0, -1]).log10())
        return found
