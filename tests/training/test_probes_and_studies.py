"""A cell with instruments on it, and a cell that measures instead of training."""

from typing import Any

import lightning
import numpy as np
import pytest

from normzoo.errors import UserError
from normzoo.recording import read_recording
from normzoo.training.cell import run_cell


class StepCounter(lightning.Callback):
    """Counts steps, times a weight."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight, self.steps = weight, 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += 1

    def summary(self) -> dict[str, float]:
        return {"weighted_steps": self.weight * self.steps}

    def recording(self) -> dict[str, Any]:
        return {"steps": [self.steps]}


def parameters_of_the_norm(parts: Any, *, num_features: int) -> tuple[dict[str, float], dict[str, Any]]:
    layer = parts.norm()(num_features)
    return {"parameters": float(sum(p.numel() for p in layer.parameters()))}, {"weight": layer.weight.detach().numpy()}


def test_a_probe_adds_its_summary_and_its_recording(config, tmp_path):
    cell = config()
    cell["probe"] = {"steps": {"_target_": f"{__name__}.StepCounter", "weight": 2.0}}
    result = run_cell(cell, tmp_path)
    assert result.metrics["weighted_steps"] == 2 * result.metrics["steps"] > 0
    assert read_recording(tmp_path)["steps"].tolist() == [result.metrics["steps"]]


def test_a_study_is_recorded_like_a_trained_cell(config, tmp_path):
    cell = config()
    cell["study"] = {"name": "own", "_target_": f"{__name__}.parameters_of_the_norm", "num_features": 5}
    result = run_cell(cell, tmp_path)
    assert (result.status, result.metrics) == ("ok", {"parameters": 10.0})
    assert np.array_equal(read_recording(tmp_path)["weight"], np.ones(5))


def test_an_unknown_argument_of_a_probe_is_a_clear_error(config, tmp_path):
    cell = config()
    cell["probe"] = {"steps": {"_target_": f"{__name__}.StepCounter", "wait": 2.0}}
    with pytest.raises(UserError, match="wait"):
        run_cell(cell, tmp_path)


def test_a_corrupt_recording_is_named(tmp_path):
    (tmp_path / "recording.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"recording\.npz is corrupt"):
        read_recording(tmp_path)
