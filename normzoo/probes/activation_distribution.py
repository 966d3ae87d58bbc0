"""Measure the distribution of the input of each activation function, and how far it moves during training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.probes._activations import watch_activations
from normzoo.probes._batches import input_of
from normzoo.probes._callback import StepProbe, median, probe_batches, reduce_column

QUANTILES = (0.05, 0.15, 0.5, 0.85, 0.95)
_MAX_VALUES = 2**24  # limit of torch.quantile


@dataclass(frozen=True)
class Distribution:
    """The inputs of each activation function over a batch.

    Attributes:
        layers: Names of the activations, in the order of their calls, (A,).
        mean, std: Over all values, (A,); std is the root of the biased variance.
        quantiles: Over all values, (A, Q).
        channel_means, channel_stds: Per channel, over samples and positions; A tensors of (C,).
    """

    layers: tuple[str, ...]
    mean: Tensor
    std: Tensor
    quantiles: Tensor
    channel_means: tuple[Tensor, ...]
    channel_stds: tuple[Tensor, ...]


def activation_distribution(
    model: nn.Module, inputs: Any, quantiles: Sequence[float] = QUANTILES, *, channel_dim: int = 1
) -> Distribution:
    """Measure mean, standard deviation and quantiles of the input of each activation function.

    Ioffe & Szegedy 2015 (arXiv:1502.03167, figure 1) show the 0.15, 0.5 and 0.85 quantiles of this input. The model is
    measured in its current mode and left unchanged.

    Cost: one forward pass. Beyond 2²⁴ values, quantiles use every k-th value.

    Args:
        model: Model to measure.
        inputs: The input of the model, a tuple of inputs, (x, y) or ((x1, x2), y).
        quantiles: Levels from 0 to 1.
        channel_dim: Dimension of the channels.
    """
    return _distribution(model, input_of(model, inputs), quantiles, channel_dim)


def _distribution(model: nn.Module, inputs: Any, quantiles: Sequence[float], channel_dim: int = 1) -> Distribution:
    """Measure `activation_distribution` of inputs without a target."""
    q = torch.tensor(quantiles, dtype=torch.float64)
    names: list[str] = []
    rows: list[tuple[Tensor, ...]] = []

    def observe(name: str, kind: str, x: Tensor) -> None:
        channels = x.movedim(channel_dim, 0).flatten(1).double()
        var, mean = torch.var_mean(channels, 1, correction=0)
        every = channels.flatten()[:: -(-channels.numel() // _MAX_VALUES)]
        names.append(name)
        rows.append((channels.mean(), channels.std(correction=0), every.quantile(q.to(every.device)), mean, var.sqrt()))

    watch_activations(model, inputs, observe)
    mean, std, found, means, stds = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return Distribution(
        layers=tuple(names),
        mean=torch.tensor(mean, dtype=torch.float64),
        std=torch.tensor(std, dtype=torch.float64),
        quantiles=torch.stack(found).cpu() if rows else torch.empty(0, len(q)),
        channel_means=tuple(value.cpu() for value in means),
        channel_stds=tuple(value.cpu() for value in stds),
    )


def drift(earlier: Distribution, later: Distribution) -> Tensor:
    """Return how far each layer's channels moved, in units of their earlier standard deviations, (A,).

        drift = mean over channels of  sqrt((mean' − mean)² + (std' − std)²) / std

    The root is the Wasserstein-2 distance between two normal distributions. Channels that were constant are left out; a
    layer with no other channels has nan.
    """
    found = []
    for i in range(len(earlier.layers)):
        std = earlier.channel_stds[i]
        moved = torch.hypot(later.channel_means[i] - earlier.channel_means[i], later.channel_stds[i] - std)
        found.append((moved / std)[std > 0].mean())
    return torch.stack(found) if found else torch.empty(0)


class ActivationDistributionProbe(StepProbe):
    """Record `activation_distribution` during training, and the `drift` caused by each measured step.

    Cost: two forward passes per measurement, before and after the step.

    Recording: `activation_step`; per row and layer `activation_mean`, `activation_std`, `activation_drift` (nan if
    training ended with that step); per row, layer and quantile `activation_quantiles`; `activation_layers`;
    `activation_levels` of the quantiles. Summary: the median over rows of the mean drift over layers.

    Args:
        every: Optimizer steps between measurements.
        samples: Measure on the first `samples` training images of each process, the same at every step; None for the
            batch of the step.
        quantiles: Levels from 0 to 1.
    """

    prefix = "activation"
    kept = (*StepProbe.kept, "last_step")

    def __init__(self, every: int = 10, samples: int | None = 256, quantiles: Sequence[float] = QUANTILES) -> None:
        super().__init__(every)
        if samples is not None and samples < 1:
            raise UserError(f"ActivationDistributionProbe: samples={samples} must be positive or null")
        if not all(0 <= level <= 1 for level in quantiles):
            raise UserError(f"ActivationDistributionProbe: quantiles={list(quantiles)} must be between 0 and 1")
        self.samples, self.levels = samples, tuple(quantiles)
        self.names = {"layers": [], "levels": list(quantiles)}
        self.last: Distribution | None = None
        self.last_step = -1

    def due(self, trainer: Any, batch_idx: int) -> bool:
        """Return whether to measure: at every `every`-th step, and right after it for the drift."""
        follows = self.last_step == trainer.global_step - 1 and batch_idx % trainer.accumulate_grad_batches == 0
        return follows or super().due(trainer, batch_idx)

    def measure(self, trainer: Any, model: nn.Module, batch: Any) -> Mapping[str, Any] | None:
        """Measure the distribution, and complete the drift of the previous row."""
        inputs = batch[0] if self.samples is None else probe_batches(trainer, self.samples, self.samples)[0][0]
        found = _distribution(model, inputs, self.levels)
        step = trainer.global_step
        if self.last is not None and self.last_step == step - 1:
            self.rows[-1]["drift"] = drift(self.last, found)
        if step % self.every:
            return None
        self.last, self.last_step = found, step
        self.names["layers"] = list(found.layers)
        unknown = torch.full_like(found.mean, torch.nan)
        return {"mean": found.mean, "std": found.std, "quantiles": found.quantiles, "drift": unknown}

    def summary(self) -> dict[str, float | None]:
        """Return the median drift."""
        moved = self.column("drift")
        known = moved[moved.isfinite().any(1)].nanmean(1) if moved.numel() else moved
        return {"activation_drift": reduce_column(median, known)}

    def state_dict(self) -> dict[str, Any]:
        """Return rows and the last distribution for a checkpoint."""
        return {**super().state_dict(), "last": self.last and dict(vars(self.last))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore rows and the last distribution from a checkpoint."""
        super().load_state_dict(state_dict)
        self.last = state_dict["last"] and Distribution(**state_dict["last"])
