"""Small batches convolved without oneDNN: which these are, the same numbers, and nothing left behind."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.backends import mkldnn

from normzoo.training import fit
from normzoo.training.cell import run_cell
from normzoo.training.config import parse
from normzoo.training.instantiate import build_model
from normzoo.training.shape_trace import trace_shapes
from normzoo.training.small_batches import WithoutOneDNN, convolving

Compose = Callable[..., dict[str, Any]]


def multiply_adds(model: nn.Module, *shape: int) -> list[float]:
    return trace_shapes(model, torch.empty(shape)).multiply_adds


def test_multiply_adds_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1, stride=2), nn.Flatten())
    assert multiply_adds(model, 2, 3, 6, 6) == [8 * 3 * 9 * 36, 4 * 8 * 9]
    assert multiply_adds(nn.Conv2d(4, 4, 1, groups=4), 2, 4, 6, 6) == [math.inf]
    assert multiply_adds(nn.Flatten(), 2, 4, 6, 6) == []
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "side", "batch", "small"),
    [
        ("plain_cnn", 8, 2, True), ("plain_cnn", 8, 8, True), ("plain_cnn", 8, 16, False), ("plain_cnn", 28, 8, False),
        ("lenet5", 28, 4, True), ("resnet8", 28, 2, False), ("mlp", 8, 2, False),
    ],
)  # fmt: skip
def test_which_batches_are_small(config: Compose, model: str, side: int, batch: int, small: bool) -> None:
    built = build_model(parse(config(f"model={model}", f"data.image_size={side}")), (1, side, side), 10)
    assert convolving(batch, multiply_adds(built, batch, 1, side, side)).small is small


def test_the_setting_is_restored_and_the_users_own_kept() -> None:
    with WithoutOneDNN(small=True):
        assert not mkldnn.enabled
    assert mkldnn.enabled
    with WithoutOneDNN(small=False):
        assert mkldnn.enabled
    with mkldnn.flags(enabled=False):
        with WithoutOneDNN(small=False):
            assert not mkldnn.enabled
        assert not mkldnn.enabled


def test_the_numbers_are_those_of_onednn() -> None:
    x, gradients = torch.randn(2, 3, 8, 8, dtype=torch.float32), []
    layer = nn.Conv2d(3, 8, 3, padding=1)
    for small in (False, True):
        layer.zero_grad()
        with WithoutOneDNN(small=small):
            assert mkldnn.enabled is not small
            y = layer(x)
            y.square().sum().backward()
        assert layer.weight.grad is not None
        gradients.append((y.detach(), layer.weight.grad.clone()))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("overrides", "small"),
    [
        ((), True),
        (("norm=batch_norm",), True),
        (("batch_size_per_device=16",), False),
        (("trainer.precision=bf16-mixed",), False),
    ],
)
def test_a_cell_trains_so_forward_and_backward(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], small: bool
) -> None:
    seen: dict[str, set[bool]] = {"train": set(), "backward": set(), "eval": set()}

    class Spy(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.device.type != "meta":
                seen["train" if torch.is_grad_enabled() else "eval"].add(bool(mkldnn.enabled))
            y = super().forward(x)
            if y.requires_grad:
                y.register_hook(lambda _: seen["backward"].add(bool(mkldnn.enabled)))
            return y

    def build(*arguments: Any) -> nn.Module:
        model = build_model(*arguments)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.__class__ = Spy
        return model

    monkeypatch.setattr(fit, "build_model", build)
    run_cell(config("norm=group_norm", "batch_size_per_device=4", "trainer.max_epochs=1", *overrides), tmp_path)
    batches_evaluated_alike = "norm=batch_norm" in overrides  # by the statistics of each
    expected = {True, not small} if batches_evaluated_alike else {True}
    assert seen == {"train": {not small}, "backward": {not small}, "eval": expected}
