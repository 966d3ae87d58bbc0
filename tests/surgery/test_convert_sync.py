"""Batch norms become synchronized ones and back without loss, on the CPU and within processes."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

import normzoo
from normzoo.surgery.convert import convert
from tests.norms.processes import in_processes

C = 4


def a_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, C, 1), nn.BatchNorm2d(C), nn.ReLU(), nn.Conv2d(C, C, 1), nn.BatchNorm2d(C))
    return model.double()


def train(rank, x):
    """Both ways on each rank: statistics and gradients over the batch of all."""
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = convert(model, "sync_batch_norm")
    parallel = nn.parallel.DistributedDataParallel(model)
    parallel(x[rank::2]).square().mean().backward()
    optimizer.step()
    kinds = [type(model[1]).__name__]
    convert(model, "batch_norm")
    kinds.append(type(model[1]).__name__)
    with pytest.raises(ValueError, match="undo the later operation first"):
        report.undo()
    return kinds, model.state_dict()


@pytest.mark.ddp
def test_two_processes_train_as_one_on_their_joint_batch(tmp_path):
    x = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    outcomes = in_processes(2, tmp_path, train, x)
    model = a_model()
    model(x).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for kinds, state in outcomes:
        assert kinds == ["SyncBatchNorm", "BatchNorm"]
        torch.testing.assert_close(state, model.state_dict())


def _of_torch(rank):
    """An instance of torch's own, which refuses the CPU in training, and is not called here in training."""
    layer = nn.SyncBatchNorm(C, process_group=dist.group.WORLD)
    model = nn.Sequential(layer, normzoo.create("sync_batch_norm", C))
    report = convert(model, "batch_norm")
    y = model(torch.randn(2, C, 2, 2))
    back = convert(model, "sync_batch_norm")
    return report.counts(), back.counts(), y.shape, report[0].was


@pytest.mark.ddp
def test_torchs_sync_batch_norm_is_converted_within_a_process_group(tmp_path):
    assert (
        in_processes(2, tmp_path, _of_torch)
        == [({"converted": 2}, {"converted": 2}, (2, C, 2, 2), "SyncBatchNorm (sync_batch_norm)")] * 2
    )


def test_there_and_back_loses_nothing():
    model = a_model()
    model(torch.randn(3, 2, 3, 3).double())
    state, tensors = copy.deepcopy(model.state_dict()), {n: id(t) for n, t in model.state_dict(keep_vars=True).items()}
    for to in ("sync_batch_norm", "batch_norm"):
        convert(model, to)
        torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
        assert {n: id(t) for n, t in model.state_dict(keep_vars=True).items()} == tensors


def test_the_activation_is_synchronized_too():
    """Torch's own conversion drops it."""
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(layers.BatchNormAct2d(C), layers.BatchNormAct2d(C, apply_act=False))
    expected = copy.deepcopy(model)
    convert(model, "sync_batch_norm")
    x = torch.randn(3, C, 2, 2)
    torch.testing.assert_close(model(x), expected(x))
    assert convert(model, "batch_norm").counts() == {"converted": 2}
    torch.testing.assert_close(model(x), expected(x))


def test_caffes_rule_for_running_statistics_is_said_to_be_lost():
    model = nn.Sequential(normzoo.create("batch_norm_scratch", C, moving_average_fraction=0.999))
    (row,) = convert(model, "sync_batch_norm")
    assert "its moving_average_fraction=0.999 is left out" in row.reason


def test_torchs_own_conversion_forgets_that_statistics_are_frozen():
    """It builds layers of its own; ours keeps a frozen layer and says so."""
    model = nn.Sequential(nn.BatchNorm2d(C))
    model(torch.randn(3, C, 2, 2))
    normzoo.freeze(model)
    (row,) = convert(model, "sync_batch_norm")
    assert row.action == "kept"
    assert "unfreeze it first" in row.reason
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert not theirs[0].weight.requires_grad
    assert theirs.train()[0].training
    assert not normzoo.freeze(theirs).train()[0].training
