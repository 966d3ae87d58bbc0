"""How noisy batch statistics are: the spread of a batch's mean and variance around the population's."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.probes._batches import batches_of, input_of
from normzoo.probes._callback import Callback, inner, probe_batches, training_batch_size
from normzoo.probes._layers import all_norms
from normzoo.probes._point import at, output_of, same_random_numbers


@dataclass(frozen=True)
class StatisticNoise:
    """The noise of the batch statistics at the input of each norm.

    Attributes:
        layers: Names of the norms, in the order of their calls, (L,).
        mean: Spread of the batch mean over batches, in standard deviations of the population, (L,).
        var: Spread of the batch variance, relative to the variance of the population, (L,).
        values: How many values one statistic averages, (L,). Independent normal values would have a `mean` of
            1 / √values and a `var` of √(2 / values); neighbouring positions of one image are not independent.
    """

    layers: tuple[str, ...]
    mean: Tensor
    var: Tensor
    values: Tensor


def statistic_noise(
    model: nn.Module, batches: Iterable[Any], *, group_size: int | None = None, channel_dim: int = 1
) -> StatisticNoise:
    """The spread of batch mean and variance around the population's, at each norm's input.

        with m_b, v_b mean and variance of a channel over the b-th batch and its positions, and over batches
        population variance V = E[v_b] + Var[m_b]
        mean noise = √(mean over channels of Var[m_b] / V),   var noise = √(mean over channels of Var[v_b] / V²)

    Batch normalization subtracts m_b and divides by √v_b, and with these its output is noisy; other norms are measured
    for comparison, though they use no batch statistic. The model is measured as the training sees it, so that noise of
    earlier layers is in the inputs of the later ones. Its parameters, buffers, modes and torch's random numbers stay as
    they were. Channels that never change are left out.

    Cost: one forward pass a batch.

    Args:
        batches: Inputs, each a tensor, a tuple of them, (x, y) or ((x1, x2), y), of equal size; two or more, or one
            with a `group_size`.
        group_size: Take the statistics over groups of so many samples; over the whole batch unless given.
        channel_dim: Where channels stand.

    Raises:
        ValueError: If there are fewer than two batches, or groups.
        TypeError: If one tensor is given where a list of batches is expected, or a tuple of two tensors alike, which
            could be (x, y) or two batches.

    Source: the noise that Ioffe & Szegedy 2015 (arXiv:1502.03167, section 3.4) take for a regularizer.
    """
    moments: dict[str, list[tuple[Tensor, Tensor]]] = {}
    values: dict[str, int] = {}

    def keep(name: str, x: Tensor) -> None:
        for group in x.split(group_size) if group_size else (x,):
            channels = group.detach().double().movedim(channel_dim, 0).flatten(1)
            var, mean = torch.var_mean(channels, 1, correction=0)
            values.setdefault(name, channels.shape[1])
            if channels.shape[1] == values[name]:  # not the rest of a batch that groups do not divide
                moments.setdefault(name, []).append((mean, var))

    for batch in batches_of(batches, "batches", "a list of two or more, or [x] with a group_size"):
        point = at(model, {})
        for name, norm in all_norms(point):
            norm.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0]))
        with same_random_numbers(model), torch.no_grad():
            output_of(point.train(), input_of(model, batch))
    if min(map(len, moments.values()), default=0) < 2:
        raise ValueError("a spread is over two batches (or groups) or more, of a model that calls a norm")
    rows = [_noise(*map(torch.stack, zip(*found, strict=True))) for found in moments.values()]
    mean, var = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return StatisticNoise(tuple(moments), mean, var, torch.tensor([values[name] for name in moments]))


def _noise(means: Tensor, variances: Tensor) -> tuple[float, float]:
    population = variances.mean(0) + means.var(0, correction=0)
    varies = population > 0
    mean, var = means.var(0) / population, variances.var(0) / population.square()
    return float(mean[varies].mean().sqrt()), float(var[varies].mean().sqrt())


class StatisticNoiseProbe(Callback):
    """`statistic_noise` before and after the training, over training images.

    Cost: `batches` forward passes, twice.

    Recording: `noise_mean`, `noise_var`, (2, L), before and after; `noise_values`, `noise_layers`. Summary: the means
    over layers after the training, `statistic_noise_mean` and `statistic_noise_var`.

    Args:
        batches: How many, each of the training's size, from the first training images of each process.
        group_size: See `statistic_noise`.
    """

    def __init__(self, batches: int = 16, group_size: int | None = None) -> None:
        super().__init__()
        if batches < 1 or (group_size is not None and group_size < 1) or (batches < 2 and group_size is None):
            raise UserError(f"StatisticNoiseProbe: batches={batches}, group_size={group_size}: two or more are needed")
        self.batches, self.group_size = batches, group_size
        self.rows: list[StatisticNoise] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        if not self.rows:  # a continued training has measured
            self._measure(trainer, module)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._measure(trainer, module)

    def _measure(self, trainer: Any, module: Any) -> None:
        size = training_batch_size(trainer)
        inputs = [x for x, _ in probe_batches(trainer, self.batches * size, size)]
        with trainer.precision_plugin.forward_context():
            self.rows.append(statistic_noise(inner(module), inputs, group_size=self.group_size))

    def recording(self) -> dict[str, Any]:
        if not self.rows:
            return {}
        return {
            "noise_mean": torch.stack([row.mean for row in self.rows]).numpy(),
            "noise_var": torch.stack([row.var for row in self.rows]).numpy(),
            "noise_values": self.rows[-1].values.numpy(),
            "noise_layers": list(self.rows[-1].layers),
        }

    def summary(self) -> dict[str, float | None]:
        last = self.rows[-1] if self.rows else None
        return {
            "statistic_noise_mean": float(last.mean.mean()) if last else None,
            "statistic_noise_var": float(last.var.mean()) if last else None,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(vars(row)) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [StatisticNoise(**row) for row in state_dict["rows"]]
