"""Measure how correlated the output channels of each norm are."""

from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.probes._batches import input_of
from normzoo.probes._callback import Probe, in_mode, inner_model, probe_batches
from normzoo.probes._gradients import copy_with, keep_rng_state, output_of
from normzoo.probes._layers import all_norms


@torch.no_grad()
def channel_correlation(model: nn.Module, inputs: Any, *, channel_dim: int = 1) -> dict[str, tuple[float, float]]:
    """Measure the mean absolute correlation of the output channels of each norm, and the condition number.

        R = correlation matrix of the channels over samples and positions;  mean |R_ij|, i ≠ j;  λ_max(R) / λ_min(R)

    Neither depends on a final weight and bias of the norm; they are 0 and 1 after whitening all channels together.
    Constant channels are left out; with fewer than two channels both are nan. With fewer values than channels the
    smallest eigenvalue is rounding error, and the condition number practically infinite.

    Cost: one forward pass. The model is measured in its current mode and left unchanged.

    Args:
        model: Model to measure.
        inputs: The input of the model, a tuple of inputs, (x, y) or ((x1, x2), y).
        channel_dim: Dimension of the channels.

    Returns:
        Correlation and condition number by norm, in the order of the model.
    """
    twin = copy_with(model, {})
    found: dict[str, tuple[float, float]] = {}

    def observe(name: str, y: Tensor) -> None:
        found[name] = _describe(y.detach().movedim(channel_dim, 0).flatten(1).double())

    for name, norm in all_norms(twin):
        norm.register_forward_hook(lambda _, __, y, name=name: observe(name, y))
    with keep_rng_state(model):
        output_of(twin, input_of(model, inputs))
    return found


def _describe(rows: Tensor) -> tuple[float, float]:
    rows = rows[rows.std(1, correction=0) > 0]
    if len(rows) < 2:
        return torch.nan, torch.nan
    matrix = torch.corrcoef(rows)
    apart = ~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    condition = eigenvalues[-1] / eigenvalues[0].clamp(min=torch.finfo(torch.float64).tiny)
    return float(matrix[apart].abs().mean()), float(condition)


class ChannelCorrelationProbe(Probe):
    """Measure `channel_correlation` of the trained model, in training mode, on the same training images for every norm.

    Cost: one forward pass, after the training, on the images of the first process.

    Recording: per norm layer `correlation_mean` and `correlation_condition`; `correlation_layers`. Summary:
    `channel_correlation`, the mean over layers, and `channel_condition`, the median.

    Args:
        samples: Number of training images.
    """

    def __init__(self, samples: int = 512) -> None:
        super().__init__()
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
            raise UserError(f"ChannelCorrelationProbe: samples={samples!r} must be an integer of at least 2")
        self.samples = samples
        self.found: dict[str, tuple[float, float]] = {}

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Measure in training mode, and restore the modes."""
        model = inner_model(module)
        with in_mode(model, True), trainer.precision_plugin.forward_context():
            self.found = channel_correlation(model, probe_batches(trainer, self.samples, self.samples)[0][0])

    def recording(self) -> dict[str, Any]:
        """Return both quantities per layer."""
        mean, condition = self._values().numpy()
        return {"correlation_layers": list(self.found), "correlation_mean": mean, "correlation_condition": condition}

    def summary(self) -> dict[str, float | None]:
        """Return the mean correlation and the median condition number."""
        mean, condition = self._values()
        known = bool((mean.isfinite() & condition.isfinite()).any())
        return {
            "channel_correlation": float(mean.nanmean()) if known else None,
            "channel_condition": float(condition.nanmedian()) if known else None,
        }

    def _values(self) -> Tensor:
        return torch.tensor(list(self.found.values()), dtype=torch.float64).reshape(-1, 2).T
