"""A loader calibrates converted norms: each channel keeps the moments that it had, or gets statistics."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from normzoo.surgery.convert import convert
from normzoo.surgery.report import SurgeryError

C = 8


@pytest.fixture
def model():
    model = nn.Sequential(
        nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.ReLU(), nn.Dropout(), nn.Conv2d(C, C, 3), nn.BatchNorm2d(C)
    ).double()
    for layer in (model[1], model[5]):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    model(torch.randn(32, 3, 8, 8, dtype=torch.float64) + 1)
    return model


@pytest.fixture
def loader():
    x = torch.randn(20, 3, 8, 8, dtype=torch.float64) * 2
    return DataLoader(TensorDataset(x, torch.zeros(20, dtype=torch.long)), batch_size=20)


def moments(model, loader, layer):
    outputs = []
    handle = model[layer].register_forward_hook(lambda *given: outputs.append(given[-1]))
    (x, _), *_ = loader
    assert model.training
    model.eval()(x)
    model.train()
    handle.remove()
    return outputs[0].mean((0, 2, 3)), outputs[0].std((0, 2, 3), correction=0)


@pytest.mark.parametrize("to", ["group_norm", "layer_norm", "batch_norm"])
def test_channels_keep_their_moments(model, loader, to):
    wanted = [moments(model, loader, layer) for layer in (1, 5)]
    values = [t.clone() for t in model.state_dict().values()]
    report = convert(model, to, loader=loader)
    torch.testing.assert_close([moments(model, loader, layer) for layer in (1, 5)], wanted)
    assert [module.training for module in model.modules()] == [True] * 7
    report.undo()
    torch.testing.assert_close(list(model.state_dict().values()), values)


def test_new_running_statistics_are_measured(model, loader):
    convert(model, "group_norm")
    report = convert(model, "batch_norm", loader=iter(list(loader)))
    inputs = []
    model[1].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    (x, _), *_ = loader
    model(x)
    torch.testing.assert_close(report.model[1].running_mean.shape, (C,))
    assert (model[5].running_var != 1).all()
    with torch.no_grad():
        mean = inputs[0].mean((0, 2, 3))
    assert torch.allclose(report.model[1].running_mean, mean)


@pytest.mark.parametrize("broken", [[], [torch.zeros(2, 5, 8, 8, dtype=torch.float64)]])
def test_a_loader_that_gives_nothing_or_fails_leaves_the_model_as_it_was(model, broken):
    state, modules = {n: t.clone() for n, t in model.state_dict().items()}, list(model.modules())
    with pytest.raises((SurgeryError, RuntimeError), match=r"gives no batch|expected input"):
        convert(model, "group_norm", loader=broken)
    assert list(model.modules()) == modules
    torch.testing.assert_close(model.state_dict(), state)
    assert all(module.training and not module._forward_hooks for module in modules)


@pytest.mark.parametrize("to", ["l1_batch_norm", "iter_norm", "group_norm"])
def test_undo_puts_back_statistics_that_both_norms_have(to):
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
    batches = [torch.randn(16, 3) for _ in range(2)]
    before = copy.deepcopy(model.state_dict())
    convert(model, to, loader=batches).undo()
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_a_layer_that_is_not_called_is_told_by_its_name():
    model = nn.ModuleDict({"used": nn.LayerNorm(8), "spare": nn.LayerNorm(8)})
    model.forward = lambda x: model["used"](x)
    with pytest.warns(UserWarning, match="were not called, and keep their statistics: spare"):
        convert(model, "batch_norm", loader=[torch.randn(16, 4, 8)])
