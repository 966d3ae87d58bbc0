"""When a training counts as diverged: a loss that stays away from the finite, not a step that a scaler leaves out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from normzoo.models.plain_cnn import PlainCNN
from normzoo.training.cell import run_cell

Compose = Callable[..., dict[str, Any]]


class Overflowing(PlainCNN):
    """A plain CNN whose training overflows at some steps."""

    def __init__(self, first: int, last: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.first, self.last, self.steps = first, last, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training and x.device.type != "meta"
        overflows = self.training and self.first <= self.steps <= self.last
        return super().forward(x) * (float("inf") if overflows else 1.0)


def overflowing(config: Compose, first: int, last: int) -> dict[str, Any]:
    model = (f"model._target_={__name__}.Overflowing", f"+model.first={first}", f"+model.last={last}")
    return config("trainer.max_epochs=6", "norm=group_norm", "norm.channels_per_group=4", *model)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision with a gradient scaler, as 16-mixed has on a GPU, on the processor."""
    original = lightning.Trainer

    def trainer(**arguments: Any) -> lightning.Trainer:
        precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
        plugins = [*arguments.pop("plugins"), precision]
        return original(**{**arguments, "precision": None}, plugins=plugins)

    monkeypatch.setattr("lightning.Trainer", trainer)


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("steps", [(1, 3), (12, 12), (70, 72)])
def test_steps_that_a_scaler_leaves_out_are_no_divergence(
    config: Compose, tmp_path: Path, steps: tuple[int, int]
) -> None:
    result = run_cell(overflowing(config, *steps), tmp_path)
    assert result.status == "ok"
    assert [point["epoch"] for point in result.curve] == [1, 2, 3, 4, 5, 6]
    assert all(point["train_loss"] is not None for point in result.curve)


@pytest.mark.usefixtures("scaled")
def test_a_loss_that_stays_infinite_is_one_also_with_a_scaler(config: Compose, tmp_path: Path) -> None:
    result = run_cell(overflowing(config, 10, 10**6), tmp_path)
    assert result.status == "diverged"
    assert result.curve[0]["train_loss"] is not None  # of the nine steps before


@pytest.mark.usefixtures("scaled")
def test_a_norm_that_averages_gradients_is_told_the_scale_of_the_loss(config: Compose, tmp_path: Path) -> None:
    result = run_cell(config("trainer.max_epochs=1", "norm=online_norm"), tmp_path)
    assert result.status == "ok", result.reason


def test_without_a_scaler_one_step_is_enough(config: Compose, tmp_path: Path) -> None:
    assert run_cell(overflowing(config, 20, 20), tmp_path).status == "diverged"
