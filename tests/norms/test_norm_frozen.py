"""Frozen batch norm is a trained batch norm in evaluation, in training too."""

import copy

import pytest
import torch
from torch import nn

import normzoo
from normzoo.surgery.recalibrate import recalibrate
from tests.norms.norm_cases import CHANNELS, an_input, build


def trained(rank):
    """A batch norm of torch's that has seen batches, and a frozen one that has loaded it."""
    theirs = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[rank](CHANNELS).double()
    for parameter in theirs.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    for _ in range(3):
        theirs(an_input(rank))
    ours = normzoo.create("frozen_batch_norm", CHANNELS).double()
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    return ours, theirs.eval()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dimensions", [2, 4, 5])
def test_is_the_batch_norm_it_loads(dimensions, training):
    ours, theirs = trained(dimensions)
    ours.train(training)
    before = copy.deepcopy(ours.state_dict())
    x = an_input(dimensions)
    g, results = torch.randn_like(x), []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        results.append([y, *torch.autograd.grad(y, leaf, g)])
    torch.testing.assert_close(*results)
    torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)


def test_loads_into_a_batch_norm():
    ours, _ = trained(4)
    other = nn.BatchNorm2d(CHANNELS).double().eval()
    other.load_state_dict(ours.state_dict())
    x = an_input(4)
    torch.testing.assert_close(other(x), ours(x))


def test_a_missing_statistic_is_reported():
    state = nn.BatchNorm2d(CHANNELS, affine=False).state_dict()
    with pytest.raises(RuntimeError, match=r'Missing key.*"weight", "bias"'):
        normzoo.create("frozen_batch_norm", CHANNELS).load_state_dict(state)


def test_agrees_with_torchvision():
    theirs = pytest.importorskip("torchvision").ops.FrozenBatchNorm2d(CHANNELS, eps=1e-3).double()
    ours, _ = trained(4)
    ours.eps = 1e-3
    assert list(theirs.state_dict()) == list(ours.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = an_input(4)
    torch.testing.assert_close(ours(x), theirs(x))


def test_has_nothing_to_learn():
    layer = build("frozen_batch_norm")
    assert list(layer.parameters()) == []
    assert not layer(an_input(4)).requires_grad


def test_recalibration_leaves_it():
    model = nn.Sequential(build("frozen_batch_norm"), build("batch_norm"))
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, [an_input(4)])
    after = model.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
