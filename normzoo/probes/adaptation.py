"""Adapt the norms of a trained net to the test batches that come, and see from which size on it helps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.probes._supervised import check_counts, error_of, fit, shifted
from normzoo.surgery.adapt import adapt
from normzoo.surgery.running import tracks

METHODS = ("adabn", "blend", "tent")


def adapt_to_batches(
    parts: Any,
    *,
    severity: float = 1.0,
    batch_sizes: Sequence[int] = (1, 4, 32, 256),
    samples: int = 256,
    epochs: int = 4,
    prior: int = 16,
    lr: float = 1e-3,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Train the cell's model, then predict shifted images batch by batch, each time adapted to the batch at hand.

    The statistics of adabn are those of the batch alone; blend mixes them with those of training, whose weight is
    N / (N + n) at a test batch of n (Schneider et al. 2020, section 2); tent takes a step on each batch before it
    predicts it, and keeps what it learned.

    Args:
        parts: Model, data, optimizer, batch size and seed of the cell.
        severity: Of the shift, from 0 to 1, see `shifted`.
        batch_sizes: Sizes of test batches.
        samples: Number of validation images; those that fill no batch are left out.
        epochs: Of training.
        prior: N of blend.
        lr: Of tent.

    Returns:
        Errors in percent: `error_none` without adaptation, and if the norms have running statistics
        `error_<method>_<size>`. No arrays.

    Raises:
        UserError: If an option is out of range.
    """
    check_counts(samples=samples, epochs=epochs, prior=prior, **{f"batch_sizes.{s}": s for s in batch_sizes})
    if not 0 <= severity <= 1:
        raise UserError(f"study.severity={severity} must be from 0 to 1")
    data = parts.data()
    if max(batch_sizes) > samples or samples > data.num_val:
        raise UserError(
            f"study.samples={samples} must be from {max(batch_sizes)}, the largest of study.batch_sizes, to "
            f"{data.num_val}, the validation images"
        )
    draw = torch.Generator().manual_seed(parts.config.seed)
    model = parts.model(data)
    optimizer = parts.optimizer(model.parameters())
    size = parts.config.batch_size_per_device
    fit(model, data.tensors("train"), optimizer, draw, batch_size=size, epochs=epochs, schedule=parts.scheduler)
    x, y = (part[:samples] for part in data.tensors("val"))
    test = shifted(x, severity, draw), y
    metrics = {"error_none": error_of(model, test)}
    if any(tracks(layer) for layer in model.modules()):
        for method in METHODS:
            for size in batch_sizes:
                metrics[f"error_{method}_{size}"] = _adapted(model, test, size, method, prior, lr)
    return metrics, {}


def _adapted(model: nn.Module, test: tuple[Tensor, Tensor], size: int, method: Any, prior: int, lr: float) -> float:
    """Return the error over the batches, each predicted after adapting to it; put the model back."""
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    errors = []
    for x, y in zip(*(part.split(size) for part in test), strict=True):
        if len(y) == size:
            adapt(model, [x], method=method, alpha=prior / (prior + size), lr=lr)
            errors.append(error_of(model, (x, y)))
            if method != "tent":
                model.load_state_dict(trained)
    model.load_state_dict(trained)
    return sum(errors) / len(errors)
