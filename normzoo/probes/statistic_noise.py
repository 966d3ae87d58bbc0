"""Measure the noise of batch statistics: the spread of batch mean and variance around the population's."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.probes._batches import as_batches, input_of
from normzoo.probes._callback import Probe, inner_model, probe_batches, training_batch_size
from normzoo.probes._gradients import copy_with, keep_rng_state, output_of
from normzoo.probes._layers import all_norms


@dataclass(frozen=True)
class StatisticNoise:
    """The noise of the batch statistics at the input of each norm.

    Attributes:
        layers: Names of the norms, in the order of their calls, (L,).
        mean: Spread of the batch mean over batches, in standard deviations of the population, (L,).
        var: Spread of the batch variance, relative to the population variance, (L,).
        values: Values per statistic, (L,). For independent normal values `mean` would be 1 / √values and `var`
            √(2 / values); neighbouring positions of one image are not independent.
    """

    layers: tuple[str, ...]
    mean: Tensor
    var: Tensor
    values: Tensor


def statistic_noise(
    model: nn.Module, batches: Iterable[Any], *, group_size: int | None = None, channel_dim: int = 1
) -> StatisticNoise:
    """Measure the spread of batch mean and variance around the population's, at each norm's input.

        with m_b, v_b mean and variance of a channel over the b-th batch and its positions, and over batches
        population variance V = E[v_b] + Var[m_b]
        mean noise = √(mean over channels of Var[m_b] / V),   var noise = √(mean over channels of Var[v_b] / V²)

    Batch normalization subtracts m_b and divides by √v_b, so their noise enters its output; norms without batch
    statistics are measured for comparison. The model is measured in training mode, so the inputs of later layers
    include the noise of earlier ones. Parameters, buffers, modes and torch's RNG state stay unchanged. Constant
    channels are left out.

    Cost: one forward pass per batch.

    Args:
        model: Model to measure.
        batches: Inputs of equal size, each a tensor, a tuple of them, (x, y) or ((x1, x2), y); at least two, or one
            with a `group_size`.
        group_size: Take statistics over groups of this many samples; None for the whole batch.
        channel_dim: Dimension of the channels.

    Raises:
        ValueError: If there are fewer than two batches, or groups.
        TypeError: If `batches` is one tensor, or a tuple of two tensors of the same shape, which is ambiguous.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167, section 3.4), who attribute regularization to this noise.
    """
    moments: dict[str, list[tuple[Tensor, Tensor]]] = {}
    values: dict[str, int] = {}

    def keep(name: str, x: Tensor) -> None:
        for group in x.split(group_size) if group_size else (x,):
            channels = group.detach().double().movedim(channel_dim, 0).flatten(1)
            var, mean = torch.var_mean(channels, 1, correction=0)
            values.setdefault(name, channels.shape[1])
            if channels.shape[1] == values[name]:  # skip the incomplete last group
                moments.setdefault(name, []).append((mean, var))

    for batch in as_batches(batches, "batches", "a list of two or more, or [x] with a group_size"):
        twin = copy_with(model, {})
        for name, norm in all_norms(twin):
            norm.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0]))
        with keep_rng_state(model), torch.no_grad():
            output_of(twin.train(), input_of(model, batch))
    if min(map(len, moments.values()), default=0) < 2:
        raise ValueError("statistic_noise needs at least two batches (or groups), and a model that calls a norm")
    rows = [_noise(*map(torch.stack, zip(*found, strict=True))) for found in moments.values()]
    mean, var = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return StatisticNoise(tuple(moments), mean, var, torch.tensor([values[name] for name in moments]))


def _noise(means: Tensor, variances: Tensor) -> tuple[float, float]:
    population = variances.mean(0) + means.var(0, correction=0)
    varies = population > 0
    mean, var = means.var(0) / population, variances.var(0) / population.square()
    return float(mean[varies].mean().sqrt()), float(var[varies].mean().sqrt())


class StatisticNoiseProbe(Probe):
    """Measure `statistic_noise` before and after the training, on training images.

    Cost: `batches` forward passes, twice.

    Recording: `noise_mean`, `noise_var`, (2, L), before and after; `noise_values`, `noise_layers`. Summary: the means
    over layers after the training, `statistic_noise_mean` and `statistic_noise_var`.

    Args:
        batches: Number of batches of the training batch size, from the first training images of each process.
        group_size: See `statistic_noise`.
    """

    def __init__(self, batches: int = 16, group_size: int | None = None) -> None:
        super().__init__()
        if batches < 1 or (group_size is not None and group_size < 1) or (batches < 2 and group_size is None):
            raise UserError(
                f"StatisticNoiseProbe: batches={batches} must be at least 2, or 1 with a group_size; "
                f"got group_size={group_size}"
            )
        self.batches, self.group_size = batches, group_size
        self.rows: list[StatisticNoise] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Measure before the training."""
        if not self.rows:  # a resumed training already has its first row
            self._measure(trainer, module)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Measure after the training."""
        self._measure(trainer, module)

    def _measure(self, trainer: Any, module: Any) -> None:
        size = training_batch_size(trainer)
        inputs = [x for x, _ in probe_batches(trainer, self.batches * size, size)]
        with trainer.precision_plugin.forward_context():
            self.rows.append(statistic_noise(inner_model(module), inputs, group_size=self.group_size))

    def recording(self) -> dict[str, Any]:
        """Return the noise before and after."""
        if not self.rows:
            return {}
        mean, var = (torch.stack([getattr(row, name) for row in self.rows]).numpy() for name in ("mean", "var"))
        values, layers = self.rows[-1].values.numpy(), list(self.rows[-1].layers)
        return {"noise_mean": mean, "noise_var": var, "noise_values": values, "noise_layers": layers}

    def summary(self) -> dict[str, float | None]:
        """Return the mean noise after the training."""
        last = self.rows[-1] if self.rows else None
        return {
            "statistic_noise_mean": float(last.mean.mean()) if last else None,
            "statistic_noise_var": float(last.var.mean()) if last else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the rows for a checkpoint."""
        return {"rows": [dict(vars(row)) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows from a checkpoint."""
        self.rows = [StatisticNoise(**row) for row in state_dict["rows"]]
