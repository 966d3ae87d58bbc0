"""Predictiveness and effective β on functions whose gradient is known, and a training that does not notice."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normzoo
from normzoo.errors import UserError
from normzoo.probes.loss_landscape import LossLandscape, loss_landscape
from normzoo.recording import read_recording
from normzoo.training.cell import run_cell

NORMS = [name for name in normzoo.list_norms(kind="layer") if normzoo.info(name).build.__module__.startswith("normzoo")]


class Quadratic(nn.Module):
    """L(w) = w·A w / 2 for a symmetric A, whatever the input."""

    def __init__(self, matrix: Tensor, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.w = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        return self.w @ self.matrix @ self.w / 2


def value(output: Tensor, target: Any) -> Tensor:
    return output


def test_a_round_bowl_has_its_curvature_as_beta_whatever_the_step() -> None:
    model = Quadratic(3.0 * torch.eye(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64))
    w = model.w.detach().clone()
    found = loss_landscape(model, value, (torch.empty(0), None), [1e-3, 0.1, 2.0])
    assert torch.allclose(found.gradient_distances / found.distances, torch.tensor(3.0).double(), rtol=1e-9)
    assert found.beta == pytest.approx(3.0, rel=1e-9)
    assert found.loss == pytest.approx(1.5 * float(w @ w), rel=1e-12)
    left = (1 - 3.0 * found.step_sizes) ** 2
    assert torch.allclose(found.losses, found.loss * left, rtol=1e-12)
    assert found.loss_range == pytest.approx(float(found.losses.max() - found.losses.min()))


def test_any_quadratic_has_the_quotient_along_its_gradient() -> None:
    root = torch.randn(5, 5, dtype=torch.float64)
    matrix = root @ root.T
    model = Quadratic(matrix, torch.randn(5, dtype=torch.float64))
    g = matrix @ model.w.detach()
    found = loss_landscape(model, value, (torch.empty(0), None), [0.01, 0.3])
    assert found.beta == pytest.approx(float((matrix @ g).norm() / g.norm()), rel=1e-9)
    assert torch.allclose(found.gradient_distances, found.step_sizes * (matrix @ g).norm(), rtol=1e-9)
    assert torch.allclose(found.distances, found.step_sizes * g.norm(), rtol=1e-9)


def test_beta_is_the_largest_quotient_and_not_that_of_the_longest_step() -> None:
    class Bend(nn.Module):
        """The gradient is 1 − w up to w = 1 and then 0: the change is steep at first and none later."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return -(1 - F.relu(1 - self.w).square()).sum() / 2

    found = loss_landscape(Bend(), value, (torch.empty(0), None), [0.5, 1.0, 4.0])
    assert (found.gradient_distances / found.distances).tolist() == pytest.approx([1.0, 1.0, 0.25])
    assert found.beta == pytest.approx(1.0)


def test_parameters_without_gradient_stay_where_they_are() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    model[0].requires_grad_(False)
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    found = loss_landscape(model, F.mse_loss, (x, y), [0.1])
    hidden = torch.cat([model[0](x), torch.ones(5, 1)], 1)
    hessian = torch.kron(hidden.T @ hidden * 2 / 10, torch.eye(2).double())  # of the mean over 5 × 2 values
    residual = model(x) - y
    g = (2 / 10 * hidden.T @ residual).flatten()
    assert found.beta == pytest.approx(((hessian @ g).norm() / g.norm()).item(), rel=1e-6)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        loss_landscape(nn.Linear(2, 2), F.mse_loss, (torch.zeros(1, 2), torch.zeros(1, 2)), [0.1, 0.0])
    with pytest.raises(ValueError, match="takes a gradient"):
        loss_landscape(nn.ReLU(), F.mse_loss, (torch.zeros(1, 2), torch.zeros(1, 2)), [0.1])
    with pytest.raises(UserError, match="every=0"):
        LossLandscape(every=0)


def test_a_flat_point_has_no_beta() -> None:
    found = loss_landscape(Quadratic(torch.eye(2), torch.zeros(2)), value, (torch.empty(0), None), [1.0])
    assert np.isnan(found.beta)


@pytest.mark.parametrize("norm", NORMS)
def test_a_measurement_leaves_no_trace(norm: str, leaves_no_trace: Any) -> None:
    leaves_no_trace(lambda model, batch: loss_landscape(model, F.cross_entropy, batch, [0.1, 0.5]), norm)


def test_channels_last_leaves_no_trace_either(leaves_no_trace: Any) -> None:
    def measure(model: nn.Module, batch: Any) -> None:
        loss_landscape(model, F.cross_entropy, batch, [0.1])

    leaves_no_trace(measure, "batch_norm", torch.channels_last)


@pytest.mark.slow
def test_a_cell_trains_the_same_with_the_probe_and_records_its_bands(config: Any, tmp_path: Any) -> None:
    cell = config("+probe=loss_landscape", "probe.loss_landscape.every=8", "norm=batch_renorm")
    plain = config("norm=batch_renorm")
    with_probe, without = run_cell(cell, tmp_path / "a"), run_cell(plain, tmp_path / "b")
    assert with_probe.curve == without.curve
    arrays = read_recording(tmp_path / "a")
    steps = arrays["landscape_step"].tolist()
    assert steps == list(range(0, int(without.metrics["steps"]), 8))
    assert arrays["landscape_losses"].shape == arrays["landscape_gradient_distances"].shape == (len(steps), 6)
    ranges = arrays["landscape_losses"].max(1) - arrays["landscape_losses"].min(1)
    assert with_probe.metrics["landscape_loss_range"] == pytest.approx(np.median(ranges))
    assert with_probe.metrics["landscape_beta_max"] == pytest.approx(arrays["landscape_beta"].max())
    assert not read_recording(tmp_path / "b")


def test_a_continued_probe_keeps_its_rows() -> None:
    first, second = LossLandscape(every=2), LossLandscape(every=2)
    row = {"losses": torch.tensor([1.0, 3.0]), "gradient_distances": torch.tensor([1.0, 2.0]), "beta": 4.0}
    first.keep(0, row)
    second.load_state_dict(first.state_dict())
    second.keep(2, row)
    assert second.recording()["landscape_step"].tolist() == [0, 2]
    assert second.summary()["landscape_loss_range"] == 2.0


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_measure_the_landscape_of_their_common_batch(config: Any, tmp_path: Any) -> None:
    probed = ("+probe=loss_landscape", "probe.loss_landscape.every=4", "trainer.max_epochs=1", "norm=sync_batch_norm")
    one = run_cell(config(*probed, "batch_size_per_device=16"), tmp_path / "one")
    two = run_cell(config(*probed, "batch_size_per_device=8", "trainer.devices=2"), tmp_path / "two")
    assert (one.world_size, two.world_size) == (1, 2)
    a, b = read_recording(tmp_path / "one"), read_recording(tmp_path / "two")
    for name in ("loss", "losses", "distances", "gradient_distances", "beta"):
        np.testing.assert_allclose(a[f"landscape_{name}"], b[f"landscape_{name}"], rtol=2e-3)
