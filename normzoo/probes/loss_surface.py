"""Measure the loss on a plane of two random, filter-normalized directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.errors import UserError
from normzoo.probes._callback import Probe, in_mode, inner_model, probe_batches
from normzoo.probes._gradients import Batch, Loss, loss_at
from normzoo.probes._layers import weight_layers


@dataclass(frozen=True)
class Surface:
    """The loss L(w + α d₁ + β d₂) on a grid.

    Attributes:
        alphas, betas: Coordinates along the two directions, (A,) and (B,); 0 is the model itself.
        losses: (A, B); may be inf or nan.
    """

    alphas: Tensor
    betas: Tensor
    losses: Tensor


def filter_normalized_direction(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a Gaussian direction and scale each filter to the norm of the model's filter: d ← d / ‖d‖ · ‖w‖.

    A filter is one index of a weight's first dimension. Biases and the parameters of norms do not move. The draws are
    made on the CPU, the same for models with weights of the same shapes, whatever their norms.
    """
    parameters = dict(model.named_parameters())
    direction = {}
    for _, names in weight_layers(model).values():
        for name in names:
            w = parameters[name].detach()
            d = torch.randn(w.shape, generator=generator).to(w)
            lengths = [v.flatten(1).norm(dim=1).view(-1, *[1] * (w.dim() - 1)) for v in (w, d)]
            direction[name] = d * (lengths[0] / lengths[1])
    return direction


def loss_surface(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    alphas: Sequence[float] | Tensor | None = None,
    betas: Sequence[float] | Tensor | None = None,
    *,
    seed: int = 0,
    across: bool = False,
) -> Surface:
    """Measure the loss in the plane of two filter-normalized random directions through the model's parameters.

        L(w + α d₁ + β d₂),   d ← d / ‖d‖ · ‖w‖ filter by filter, d Gaussian

    The scale of a filter before a norm, or between ReLUs, does not change the function, so without filter normalization
    a model with large weights would look flat. Biases and the parameters of norms stay fixed, as in the authors' code
    with `--xignore biasbn`, which made the paper's contours.

    The model is measured in its current mode. In evaluation mode, as in the authors' code, norms use the running
    statistics of the centre, which do not fit points far from it; in training mode statistics follow the point. The
    model and torch's RNG state stay unchanged.

    Cost: A · B forward passes.

    Args:
        model: Model to measure.
        loss: `loss(output, target)`, a scalar.
        batch: (input or tuple of inputs, target), on the model's device.
        alphas: First coordinates; None for 21 points from −1 to 1.
        betas: Second coordinates; None for those of `alphas`.
        seed: Seed of the directions.
        across: Whether to average the loss over all processes of data-parallel training, all of which must call.

    Raises:
        ValueError: If the model has no weights to move.
        TypeError: If the batch is not a pair (input, target).

    Source: Li, Xu, Taylor, Studer & Goldstein 2018, Visualizing the loss landscape of neural nets, arXiv:1712.09913,
    section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = (filter_normalized_direction(model, generator) for _ in range(2))
    if not first:
        raise ValueError("no weight of this model takes a gradient, so there is no direction to move along")
    parameters = dict(model.named_parameters())
    x = torch.as_tensor(_grid(1.0, 21) if alphas is None else alphas, dtype=torch.float64)
    y = x if betas is None else torch.as_tensor(betas, dtype=torch.float64)
    losses = torch.empty(len(x), len(y), dtype=torch.float64)
    for i, j in torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(y))).tolist():
        a, b = float(x[i]), float(y[j])
        there = {name: parameters[name].detach() + a * first[name] + b * second[name] for name in first}
        losses[i, j] = loss_at(model, loss, batch, there, across=across)
    return Surface(x, y, losses)


def _grid(radius: float, points: int) -> Tensor:
    return torch.linspace(-radius, radius, points, dtype=torch.float64)


class LossSurface(Probe):
    """Measure `loss_surface` of the trained model, on training images.

    Cost: `points`² forward passes of `samples` images at the end of the training.

    Recording: `surface_alphas`, `surface_losses`. Summary: the loss at the centre, and its mean rise over the grid;
    None where one is not finite.

    Args:
        points: Points per side of the grid; odd, so that the model itself is on it.
        radius: Half the side of the grid, in norms of the filters.
        samples: Training images of each process, in the order of the data set.
        seed: Seed of the directions.
        training_mode: Whether to measure in training mode, where statistics follow the point.
        loss: `loss(output, target)`.
    """

    def __init__(
        self,
        points: int = 21,
        radius: float = 1.0,
        samples: int = 256,
        seed: int = 0,
        training_mode: bool = True,
        loss: Loss = F.cross_entropy,
    ) -> None:
        super().__init__()
        if points < 3 or points % 2 == 0:
            raise UserError(f"LossSurface: points={points} must be odd and at least 3")
        if samples < 1 or not radius > 0:
            raise UserError(f"LossSurface: samples={samples} and radius={radius} must be positive")
        self.points, self.radius, self.samples, self.seed = points, radius, samples, seed
        self.training_mode, self.loss = training_mode, loss
        self.surface: Surface | None = None

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Measure the surface, and restore the modes."""
        model = inner_model(module)
        (batch,) = probe_batches(trainer, self.samples, self.samples)
        grid, across = _grid(self.radius, self.points), trainer.world_size > 1
        with in_mode(model, self.training_mode), trainer.precision_plugin.forward_context():
            self.surface = loss_surface(model, self.loss, batch, grid, seed=self.seed, across=across)

    def recording(self) -> dict[str, Any]:
        """Return coordinates and losses."""
        if self.surface is None:
            return {}
        return {"surface_alphas": self.surface.alphas.numpy(), "surface_losses": self.surface.losses.numpy()}

    def summary(self) -> dict[str, float | None]:
        """Return the loss at the centre and its mean rise."""
        if self.surface is None:
            return {"surface_loss": None, "surface_rise": None}
        centre = self.surface.losses[self.points // 2, self.points // 2]
        return {"surface_loss": float(centre), "surface_rise": float((self.surface.losses - centre).mean())}
