"""Train and test a classifier on images in memory, and shift these; what studies have in common."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.errors import UserError

_EVAL_BATCH = 500


def fit(
    model: nn.Module,
    images: tuple[Tensor, Tensor],
    optimizer: Any,
    draw: torch.Generator,
    *,
    batch_size: int,
    epochs: int,
    schedule: Callable[[Any, int], Any] | None = None,
) -> None:
    """Train for some epochs in the model's present mode, in an order drawn anew each; drop the last, short batch.

    Args:
        model: Trained in place.
        images: Images and labels.
        optimizer: Of its parameters.
        draw: Draws the orders.
        batch_size: At most the number of images is taken.
        epochs: How many.
        schedule: Makes a scheduler of the optimizer and the number of steps.
    """
    x, y = images
    size = min(batch_size, len(y))
    scheduler = schedule(optimizer, epochs * (len(y) // size)) if schedule else None
    for _ in range(epochs):
        order = torch.randperm(len(y), generator=draw)
        for batch in order[: len(y) // size * size].split(size):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            if scheduler:
                scheduler.step()


@torch.no_grad()
def error_of(model: nn.Module, images: tuple[Tensor, Tensor]) -> float:
    """Return the error in percent, in evaluation mode, in which the model is left."""
    x, y = images
    model.eval()
    wrong = torch.cat([model(part).argmax(1) for part in x.split(_EVAL_BATCH)]) != y
    return 100.0 * int(wrong.sum()) / len(y)


def shifted(x: Tensor, severity: float, draw: torch.Generator) -> Tensor:
    """Lower the contrast of images of mean 0 and variance 1, brighten them and add noise.

        y = (1 − 0.6 s) · x + 1.5 s + 0.3 s · ε,  ε ~ N(0, 1) for each pixel, s the severity from 0 to 1

    Shape: (N, C, H, W) -> (N, C, H, W)
    """
    return (1 - 0.6 * severity) * x + 1.5 * severity + 0.3 * severity * torch.randn(x.shape, generator=draw)


def check_counts(**counts: Any) -> None:
    """Refuse options of a study that are no positive integers."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"study.{name}={value!r} must be a positive integer")
