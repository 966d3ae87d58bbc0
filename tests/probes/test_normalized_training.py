"""Training behind a normalizer: what is trained on, and what is reported of it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normzoo.errors import UserError
from normzoo.probes.normalized_training import train

BYTES = 255.0


def parts(lr: float = 0.5, seen: list[Any] | None = None, scaling: str = "none") -> Any:
    """Two kinds of images of four pixels, told apart by the first pixel."""
    torch.manual_seed(0)
    y = torch.arange(120) % 2
    x = 0.2 + torch.rand(120, 1, 2, 2) * 0.2
    x[:, 0, 0, 0] += 0.4 * y
    splits = {"train": (x[:100], y[:100]), "val": (x[100:], y[100:])}
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    if seen is not None:
        model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return SimpleNamespace(
        config=SimpleNamespace(seed=0, batch_size_per_device=10, data={"scaling": scaling}),
        data=lambda: SimpleNamespace(tensors=splits.__getitem__),
        model=lambda data: model,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr),
    )


@pytest.mark.parametrize("normalizer", ["minmax", "zscore", "l2", "pca", "zca"])
def test_it_trains_behind_every_normalizer(normalizer: str) -> None:
    metrics, arrays = train(parts(1.0), normalizer=normalizer, epochs=16)
    assert metrics["val_error_running"] == 0
    losses = arrays["epoch_train_loss"]
    assert (len(losses), losses[-1]) == (16, metrics["train_loss"])
    assert losses[-1] < losses[0] / 2


def test_what_the_model_sees() -> None:
    seen: list[Any] = []
    train(parts(1e-6, seen), epochs=1)
    raw = torch.cat(seen[:10])
    assert 0.7 * BYTES < raw.max() <= 0.8 * BYTES
    seen.clear()
    train(parts(1e-6, seen), normalizer="zscore", epochs=1)
    scored = torch.cat(seen[:10])
    torch.testing.assert_close(scored.mean(0), torch.zeros(1, 2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(scored.std(0, correction=0), torch.ones(1, 2, 2), atol=1e-5, rtol=0)
    assert scored.shape == raw.shape


def test_it_is_the_same_for_the_same_seed() -> None:
    first, second = (train(parts(), normalizer="zca", epochs=2) for _ in range(2))
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1]["epoch_train_loss"], second[1]["epoch_train_loss"])


def test_a_loss_that_is_not_finite_is_reported_as_none() -> None:
    metrics, arrays = train(parts(1e38), epochs=3)
    assert metrics == {"train_loss": None, "val_error_running": None}
    assert np.isnan(arrays["epoch_train_loss"][-1])


def test_what_it_refuses() -> None:
    with pytest.raises(UserError, match=r"unknown study.normalizer='zsore'; choose one of raw, minmax"):
        train(parts(), normalizer="zsore")
    with pytest.raises(UserError, match=r"needs data.scaling=none"):
        train(parts(scaling="zscore"))
