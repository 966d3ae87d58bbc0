"""The surface of a loss that is known, filters as long as the model's, and what stays where it is."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normzoo
from normzoo.errors import UserError
from normzoo.probes.loss_surface import LossSurface, filter_normalized_direction, loss_surface
from normzoo.recording import read_recording
from normzoo.training.cell import run_cell


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_each_filter_of_a_direction_has_the_length_of_the_models_own() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), normzoo.create("batch_norm", 4), nn.Flatten(), nn.Linear(4, 3))
    direction = filter_normalized_direction(model, generator())
    assert list(direction) == ["0.weight", "3.weight"]
    for name, d in direction.items():
        w = model.get_parameter(name)
        torch.testing.assert_close(d.flatten(1).norm(dim=1), w.detach().flatten(1).norm(dim=1))


@pytest.mark.parametrize("norm", [lambda c: nn.LayerNorm([c, 4, 4]), normzoo.factory("batch_norm")])
def test_parameters_of_norms_and_biases_are_not_moved(norm: Any) -> None:
    direction = filter_normalized_direction(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm(4)), generator())
    assert list(direction) == ["0.weight"]


def test_directions_are_the_same_whatever_norm_stands_between() -> None:
    found = []
    for norm in ("batch_norm", "layer_norm", "identity"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3))
        model.insert(1, normzoo.create(norm, 4))
        found.append(filter_normalized_direction(model, generator()))
    for other in found[1:]:
        assert all(torch.equal(other[name], d) for name, d in found[0].items())


def test_the_surface_of_a_quadratic_loss() -> None:
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    seeds = torch.Generator().manual_seed(7)
    first, second = (filter_normalized_direction(model, seeds)["weight"] for _ in range(2))
    surface = loss_surface(model, F.mse_loss, (x, y), [-1.0, 0.0, 0.5], [0.0, 2.0], seed=7)
    for i, a in enumerate([-1.0, 0.0, 0.5]):
        for j, b in enumerate([0.0, 2.0]):
            expected = F.mse_loss(x @ (model.weight + a * first + b * second).T + model.bias, y)
            assert float(surface.losses[i, j]) == pytest.approx(expected.item(), rel=1e-12)


def test_a_surface_does_not_depend_on_the_scale_of_filters_before_a_norm() -> None:
    """The reason for normalizing by filters: a times the weights before a norm is the same function."""
    x, y = torch.randn(6, 2, 4, 4).double(), torch.arange(6) % 3
    surfaces = []
    for scale in (1.0, 7.0):
        torch.manual_seed(0)
        norm = normzoo.create("batch_norm", 4, eps=1e-12)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.Flatten(), nn.Linear(16, 3)).double()
        with torch.no_grad():
            model[0].weight.mul_(scale)
            model[0].bias.mul_(scale)
        surfaces.append(loss_surface(model, F.cross_entropy, (x, y), [-1.0, 0.0, 1.0]).losses)
    torch.testing.assert_close(*surfaces, rtol=1e-9, atol=0)


@pytest.mark.parametrize("norm", ["batch_norm", "online_norm", "cross_iteration_batch_norm", "identity"])
def test_a_surface_leaves_no_trace(norm: str, leaves_no_trace: Any) -> None:
    leaves_no_trace(lambda model, batch: loss_surface(model, F.cross_entropy, batch, [-1.0, 0.0, 1.0]), norm)


def test_a_cell_records_the_surface_of_its_trained_model(config: Any, tmp_path: Any) -> None:
    chosen = ("+probe=loss_surface", "probe.loss_surface.points=3", "probe.loss_surface.samples=20")
    probed, plain = run_cell(config(*chosen), tmp_path / "a"), run_cell(config(), tmp_path / "b")
    assert probed.curve == plain.curve
    arrays = read_recording(tmp_path / "a")
    assert arrays["surface_alphas"].tolist() == [-1.0, 0.0, 1.0]
    assert arrays["surface_losses"].shape == (3, 3)
    assert probed.metrics["surface_loss"] == pytest.approx(arrays["surface_losses"][1, 1])
    rise = (arrays["surface_losses"] - arrays["surface_losses"][1, 1]).mean()
    assert probed.metrics["surface_rise"] == pytest.approx(rise)
    assert np.isfinite(arrays["surface_losses"]).all()


def test_bad_options_are_refused() -> None:
    with pytest.raises(UserError, match="odd"):
        LossSurface(points=4)
    with pytest.raises(UserError, match="positive"):
        LossSurface(radius=0.0)
    with pytest.raises(ValueError, match="no weight"):
        loss_surface(nn.ReLU(), F.mse_loss, (torch.zeros(1, 2), torch.zeros(1, 2)), [0.0])
