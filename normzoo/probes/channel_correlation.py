"""How far the channels that leave each norm depend on each other."""

from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.probes._batches import input_of
from normzoo.probes._callback import Callback, inner, probe_batches
from normzoo.probes._layers import all_norms
from normzoo.probes._point import at, output_of, same_random_numbers


@torch.no_grad()
def channel_correlation(model: nn.Module, inputs: Any, *, channel_dim: int = 1) -> dict[str, tuple[float, float]]:
    """Of what each norm gives out: the mean absolute correlation of two channels, and the condition of all.

        R = correlation matrix of the channels over samples and positions;  mean |R_ij|, i ≠ j;  λ_max(R) / λ_min(R)

    Both are blind to a weight and a bias that a norm applies at its end: 0 and 1 after whitening of all channels at
    once. A channel that is constant is left out; of a single one there is nothing to say (nan). With fewer values than
    channels the smallest eigenvalue is rounding, and the condition as good as infinite.

    Cost: one forward pass. The model is measured in the mode it is in and left as it is.

    Args:
        inputs: The input of the model, a tuple of inputs, (x, y) or ((x1, x2), y).
        channel_dim: Where channels stand.

    Returns:
        By the norm's name, in the order of the model.
    """
    point = at(model, {})
    found: dict[str, tuple[float, float]] = {}

    def observe(name: str, y: Tensor) -> None:
        found[name] = _describe(y.detach().movedim(channel_dim, 0).flatten(1).double())

    for name, norm in all_norms(point):
        norm.register_forward_hook(lambda _, __, y, name=name: observe(name, y))
    with same_random_numbers(model):
        output_of(point, input_of(model, inputs))
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


class ChannelCorrelationProbe(Callback):
    """`channel_correlation` of the trained model, in training mode, on the same training images with every norm.

    Cost: one forward pass, after the training. With several processes it is that of the first one's images.

    Recording: by norm layer `correlation_mean`, `correlation_condition` and their names, `correlation_layers`. Summary:
    `channel_correlation`, the mean over layers, and `channel_condition`, the median.

    Args:
        samples: Training images.
    """

    def __init__(self, samples: int = 512) -> None:
        super().__init__()
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
            raise UserError(f"ChannelCorrelationProbe: samples={samples!r} must be a whole number of images, 2 or more")
        self.samples = samples
        self.found: dict[str, tuple[float, float]] = {}

    def on_train_end(self, trainer: Any, module: Any) -> None:
        model = inner(module)
        was = {layer: layer.training for layer in model.modules()}
        try:
            with trainer.precision_plugin.forward_context():
                inputs = probe_batches(trainer, self.samples, self.samples)[0][0]
                self.found = channel_correlation(model.train(), inputs)
        finally:
            for layer, training in was.items():
                layer.training = training

    def recording(self) -> dict[str, Any]:
        values = torch.tensor(list(self.found.values()), dtype=torch.float64).reshape(-1, 2)
        return {
            "correlation_layers": list(self.found),
            "correlation_mean": values[:, 0].numpy(),
            "correlation_condition": values[:, 1].numpy(),
        }

    def summary(self) -> dict[str, float | None]:
        values = torch.tensor(list(self.found.values()), dtype=torch.float64).reshape(-1, 2)
        if not values.isfinite().all(1).any():
            return {"channel_correlation": None, "channel_condition": None}
        mean, condition = values.T
        return {"channel_correlation": float(mean.nanmean()), "channel_condition": float(condition.nanmedian())}
