"""Recomputed statistics against averages taken by hand."""

import pytest
import torch
from torch import nn

import normzoo
from normzoo.surgery.recalibrate import recalibrate

TRACKING = ("batch_norm", "batch_norm_scratch", "ghost_batch_norm", "sync_batch_norm")


@pytest.mark.parametrize("name", TRACKING)
def test_running_statistics_become_the_mean_of_the_batches(name: str) -> None:
    layer = normzoo.create(name, 3)
    layer.running_mean.fill_(100.0)
    batches = list((2 * torch.randn(6, 5, 3, 4, 4) + 1).unbind())
    model = nn.Sequential(layer, nn.Dropout(0.5))
    assert recalibrate(model, batches) is model
    dims = (0, 2, 3)
    torch.testing.assert_close(layer.running_mean, torch.stack([x.mean(dims) for x in batches]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([x.var(dims) for x in batches]).mean(0))
    assert layer.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_later_layers_see_what_they_saw_in_training() -> None:
    model = nn.Sequential(normzoo.create("batch_norm", 2), nn.ReLU(), normzoo.create("batch_norm", 2))
    x = torch.randn(64, 2) * 5 + 3
    recalibrate(model, [x])
    first = torch.relu((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt())
    torch.testing.assert_close(model[2].running_mean, first.mean(0))


def test_weights_stay_and_a_model_without_running_statistics_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), normzoo.create("layer_norm", 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def unread() -> torch.Tensor:
        raise AssertionError("no batch is needed")

    recalibrate(model, (unread() for _ in range(1)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
