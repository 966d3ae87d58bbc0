"""Compare how fast a net trains by plain gradient descent on raw and on normalized data."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normzoo.errors import UserError
from normzoo.preprocessing import NORMALIZERS

RAW = "raw"


def train(
    parts: Any, *, normalizer: str = RAW, epochs: int = 5, eps: float = 0.0, scale: float = 255.0
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Train the cell's model on its data set behind a normalizer that is fitted to the training images.

    The learning rate is constant, and the batches have the cell's size in an order drawn from its seed. Training stops
    when the loss is no longer finite.

    Cost: the training, and an evaluation on the validation images after each epoch.

    Args:
        parts: Model, optimizer and data set of the cell; needs `data.scaling=none`, pixels in [0, 1].
        normalizer: One of `normzoo.preprocessing.NORMALIZERS`, per pixel, or `raw`: pixels times `scale`.
        epochs: Number of epochs.
        eps: Added to the variance of each direction in whitening.
        scale: Factor from [0, 1] to the range of image files; applied before every normalizer.

    Returns:
        `train_loss`, the mean over the last epoch, and `val_error_running` in percent after it; None if the loss became
        non-finite. Arrays: `epoch_train_loss` and `epoch_val_error`, one entry per epoch, NaN for epochs not finished.

    Raises:
        UserError: If the normalizer is unknown, or the data are already scaled.
    """
    if normalizer != RAW and normalizer not in NORMALIZERS:
        raise UserError(f"unknown study.normalizer={normalizer!r}; choose one of {', '.join((RAW, *NORMALIZERS))}")
    if parts.config.data.get("scaling", "none") != "none":
        raise UserError(f"data.scaling={parts.config.data['scaling']}: a study of normalizers needs data.scaling=none")
    data = parts.data()
    x_train, x_val = _normalized(normalizer, eps, *(data.tensors(split)[0] * scale for split in ("train", "val")))
    y_train, y_val = data.tensors("train")[1], data.tensors("val")[1]
    model = parts.model(data)
    optimizer = parts.optimizer(model.parameters())
    size = parts.config.batch_size_per_device
    order = torch.Generator().manual_seed(parts.config.seed)
    losses, errors = [math.nan] * epochs, [math.nan] * epochs
    for epoch in range(epochs):
        model.train()
        total, batches = torch.zeros(()), torch.randperm(len(y_train), generator=order).split(size)
        for batch in batches:
            loss = F.cross_entropy(model(x_train[batch]), y_train[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        if not total.isfinite():
            break
        losses[epoch], errors[epoch] = float(total) / len(batches), _error(model, x_val, y_val)
    metrics = {"train_loss": losses[-1], "val_error_running": errors[-1]}
    finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    return finite, {"epoch_train_loss": losses, "epoch_val_error": errors}


def _normalized(name: str, eps: float, x_train: Tensor, x_val: Tensor) -> tuple[Tensor, Tensor]:
    if name == RAW:
        return x_train, x_val
    options: dict[str, Any] = {"eps": eps} if name in ("pca", "zca") else {}
    normalizer = NORMALIZERS[name](**options).fit(x_train)
    # There are as many principal components as pixels, so that they form an image too.
    return normalizer(x_train).reshape(x_train.shape), normalizer(x_val).reshape(x_val.shape)


@torch.no_grad()
def _error(model: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    wrong = model.eval()(x).argmax(1) != y
    return 100.0 * float(wrong.double().mean())
