"""Measure how loss and gradient change along the gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.probes._callback import StepProbe, median, reduce_column
from normzoo.probes._gradients import Batch, Loss, difference, gradient_at, l2_norm, trainable

STEPS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
STEP_SIZES = tuple(0.1 * step for step in STEPS)


@dataclass(frozen=True)
class Landscape:
    """The loss L and its gradient at points w − η g, where g is the gradient at w.

    Attributes:
        step_sizes: η, (S,).
        loss: L(w).
        losses: L(w − η g), (S,).
        distances: ‖η g‖₂ as rounded by the parameters' dtype, (S,).
        gradient_distances: ‖∇L(w − η g) − g‖₂, (S,).
    """

    step_sizes: Tensor
    loss: float
    losses: Tensor
    distances: Tensor
    gradient_distances: Tensor

    @property
    def loss_range(self) -> float:
        """Maximum minus minimum of the loss over the points."""
        return float(self.losses.max() - self.losses.min())

    @property
    def beta(self) -> float:
        """The effective β-smoothness: the largest gradient distance over the distance moved; nan for no distance."""
        return float((self.gradient_distances / self.distances).max())


def loss_landscape(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    step_sizes: Sequence[float] = STEP_SIZES,
    *,
    across: bool = False,
) -> Landscape:
    """Measure loss, gradient predictiveness and effective β-smoothness along the gradient at the model's parameters.

        g = ∇L(w);   for each step size η:  L(w − η g),   ‖∇L(w − η g) − g‖₂
        β = max over η of  ‖∇L(w − η g) − g‖₂ / ‖η g‖₂

    This is the change of the gradient along one step, not between consecutive training steps. The model is measured in
    its current mode: call `model.train()` for the landscape that training sees. Every point starts from the same layer
    state and sees the same dropout. Parameters, gradients, buffers, other layer state and torch's RNG state stay
    unchanged.

    Cost: 1 + S forward and backward passes, and the memory of one more model and three gradients.

    Args:
        model: Model to measure; parameters that take no gradient stay fixed.
        loss: `loss(output, target)`, a scalar.
        batch: (input or tuple of inputs, target), on the model's device.
        step_sizes: η, positive; by default half to four times a learning rate of 0.1.
        across: Whether to average loss and gradient over all processes of data-parallel training, all of which must
            call.

    Raises:
        ValueError: If a step size is not positive, or the model has nothing to train.
        TypeError: If the batch is not a pair (input, target).

    Source: Santurkar, Tsipras, Ilyas & Madry 2018, How does batch normalization help optimization?,
    arXiv:1805.11604, section 3.1.
    """
    if not len(step_sizes) or not all(step > 0 for step in step_sizes):
        raise ValueError(f"step_sizes must be one or more positive numbers, got {list(step_sizes)}")
    start = trainable(model)
    if not start:
        raise ValueError("no parameter of this model takes a gradient, so there is no direction to move along")
    loss_here, g = gradient_at(model, loss, batch, {}, across=across)
    rows = []
    for step in step_sizes:
        there = {name: parameter.detach() - step * g[name] for name, parameter in start.items()}
        loss_there, gradient = gradient_at(model, loss, batch, there, across=across)
        rows.append((float(step), loss_there, l2_norm(difference(there, start)), l2_norm(difference(gradient, g))))
    steps, losses, distances, gradient_distances = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return Landscape(steps, loss_here, losses, distances, gradient_distances)


class LossLandscape(StepProbe):
    """Measure `loss_landscape` at every `every`-th training step.

    The step sizes are multiples of the current learning rate, along the gradient of the next training batch; with plain
    SGD, 1 is the step that follows. In data-parallel training the loss is that of the global batch. Nothing is measured
    while the learning rate is zero.

    Cost: 1 + len(steps) forward and backward passes per measurement; with the defaults 7 per 10 training steps.

    Recording, per row: `landscape_step`, `landscape_lr`, `landscape_loss`, `landscape_beta`; per point
    `landscape_losses`, `landscape_distances`, `landscape_gradient_distances`; `landscape_multiples` of the learning
    rate.
    Summary: medians over rows of the loss range and of the largest gradient distance; median and maximum of β.

    Args:
        every: Optimizer steps between measurements.
        steps: Multiples of the learning rate.
        loss: `loss(output, target)`.
    """

    prefix = "landscape"

    def __init__(self, every: int = 10, steps: Sequence[float] = STEPS, loss: Loss = F.cross_entropy) -> None:
        super().__init__(every)
        self.steps, self.loss = tuple(steps), loss
        self.names = {"multiples": list(steps)}

    def measure(self, trainer: Any, model: nn.Module, batch: Any) -> Mapping[str, Any] | None:
        """Measure the landscape of the batch; None while the learning rate is zero."""
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        if not lr > 0:
            return None
        sizes = [step * lr for step in self.steps]
        found = loss_landscape(model, self.loss, batch, sizes, across=trainer.world_size > 1)
        row = dict(vars(found), lr=lr, beta=found.beta)
        del row["step_sizes"]
        return row

    def summary(self) -> dict[str, float | None]:
        """Return medians and the largest β."""
        losses, changes, beta = (self.column(name) for name in ("losses", "gradient_distances", "beta"))
        ranges = losses.amax(1) - losses.amin(1) if self.rows else losses
        return {
            "landscape_loss_range": reduce_column(median, ranges),
            "landscape_gradient_distance": reduce_column(median, changes.amax(1) if self.rows else changes),
            "landscape_beta": reduce_column(median, beta),
            "landscape_beta_max": reduce_column(torch.max, beta),
        }
