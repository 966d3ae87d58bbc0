"""Against torch.nn: outputs, gradients, buffers and state_dict keys, and what works on torch's layers."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import normzoo
from tests.norms.norm_cases import CHANNELS, a_norm, an_input, build

BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def pairs(rank):
    """Names with their keywords, and torch's layer for the same."""
    for name in ("batch_norm", "batch_norm_scratch", "sync_batch_norm"):
        for keywords in ({}, {"momentum": None}, {"momentum": 0.3, "eps": 1e-3}, {"track_running_stats": False}):
            yield name, keywords, BATCH[rank](CHANNELS, **keywords)
    for name in ("group_norm", "group_norm_scratch"):
        yield name, {"num_groups": 2}, nn.GroupNorm(2, CHANNELS)
        yield name, {"num_groups": 4}, nn.GroupNorm(4, CHANNELS)
    for name in ("layer_norm", "layer_norm_scratch"):
        yield name, {}, nn.GroupNorm(1, CHANNELS)
    if rank == 2:
        yield "layer_norm_channel", {}, nn.LayerNorm(CHANNELS)
        yield "layer_norm", {"eps": 1e-3}, nn.LayerNorm(CHANNELS, eps=1e-3)
    else:
        for name in ("instance_norm", "instance_norm_scratch"):
            yield name, {}, INSTANCE[rank](CHANNELS, affine=True)
            yield name, {"affine": False}, INSTANCE[rank](CHANNELS)
        for keywords in ({}, {"momentum": 0.3}, {"affine": False}):
            theirs = INSTANCE[rank](CHANNELS, **{"affine": True, "track_running_stats": True, **keywords})
            yield "instance_norm", {"track_running_stats": True, **keywords}, theirs


CASES = [(rank, *pair) for rank in (2, 3, 4, 5) for pair in pairs(rank)]
IDS = [f"{rank}-{name}-{keywords}" for rank, name, keywords, _ in CASES]


@pytest.mark.parametrize(("rank", "norm", "keywords", "theirs"), CASES, ids=IDS)
def test_agrees_with_torch(rank, norm, keywords, theirs):
    """Three training steps, then evaluation: outputs, gradients and state."""
    ours = build(norm, **keywords)
    theirs = copy.deepcopy(theirs).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    for training in (True, True, True, False):
        ours.train(training)
        theirs.train(training)
        x = an_input(rank)
        g = torch.randn_like(x)
        results = []
        for layer in (ours, theirs):
            layer.zero_grad()
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            y.backward(g)
            results.append([y, leaf.grad, *(parameter.grad for parameter in layer.parameters())])
        torch.testing.assert_close(*results)
    state, torch_state = ours.state_dict(), theirs.state_dict()
    if norm == "instance_norm":  # torch's never counts its batches
        state.pop("num_batches_tracked", None)
        torch_state.pop("num_batches_tracked", None)
    torch.testing.assert_close(state, torch_state)


@pytest.mark.parametrize(
    ("norm", "theirs"),
    [
        ("batch_norm", nn.BatchNorm2d),
        ("batch_norm_scratch", nn.BatchNorm2d),
        ("sync_batch_norm", nn.modules.batchnorm._BatchNorm),
        ("group_norm", nn.GroupNorm),
        ("layer_norm", nn.GroupNorm),
        ("layer_norm_channel", nn.LayerNorm),
        ("instance_norm", nn.InstanceNorm2d),
        ("identity", nn.Identity),
    ],
)
def test_is_an_instance_of_torchs(norm, theirs):
    assert isinstance(normzoo.create(norm, CHANNELS), theirs)


def test_sync_batch_norm_is_not_torchs():
    """DistributedDataParallel refuses torch's on the CPU, by its class."""
    assert not isinstance(normzoo.create("sync_batch_norm", CHANNELS), nn.SyncBatchNorm)


@pytest.mark.parametrize("convert", ["torch", "timm", "lightning"])
def test_converters_to_sync_batch_norm_take_batch_norm_and_no_other(convert):
    """They go by class, and what is batch norm with a difference would lose the difference."""
    if convert == "torch":
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
    elif convert == "timm":
        convert = pytest.importorskip("timm.layers").convert_sync_batchnorm
    else:
        convert = pytest.importorskip("lightning.pytorch.plugins").TorchSyncBatchNorm().apply
    model = nn.ModuleDict({name: a_norm(name) for name in normzoo.list_norms()})
    before = {name: (type(module), id(module)) for name, module in model.named_modules()}
    state = model.state_dict()
    converted = convert(model)
    changed = [name for name, module in converted.named_modules() if before[name] != (type(module), id(module))]
    assert changed == ["batch_norm", "batch_norm_scratch", "sync_batch_norm"]
    assert all(isinstance(converted[name], nn.SyncBatchNorm) for name in changed)
    torch.testing.assert_close(converted.state_dict(), state)


@pytest.mark.parametrize("norm", ["batch_norm", "batch_norm_scratch", "sync_batch_norm"])
@pytest.mark.parametrize("act_layer", [None, nn.ReLU])
def test_update_bn_recomputes_running_statistics(norm, act_layer):
    """The `update_bn` of torch sets momentum to None and averages over all batches."""
    layer = normzoo.factory(norm)(CHANNELS, act_layer=act_layer)
    batches = [an_input(4, torch.float32) for _ in range(5)]
    update_bn(batches, layer)
    mean = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    var = torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, var)
    assert layer.momentum == 0.1


def test_batch_norm_is_folded_into_the_convolution_before_it():
    conv, norm = nn.Conv2d(3, CHANNELS, 3).double(), build("batch_norm")
    norm(an_input(4))
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    fused = nn.utils.fuse_conv_bn_eval(conv.eval(), norm.eval())
    torch.testing.assert_close(fused(x), norm(conv(x)))


@pytest.mark.parametrize("norm", ["batch_norm", "batch_norm_scratch", "sync_batch_norm", "ghost_batch_norm"])
def test_checkpoints_without_the_number_of_batches_load(norm):
    """Those of before torch 0.4.1 hold none."""
    state = nn.BatchNorm2d(CHANNELS).state_dict()
    del state["num_batches_tracked"]
    state._metadata = {"": {"version": 1}}
    normzoo.create(norm, CHANNELS).load_state_dict(state)


def test_device_and_dtype(normalizer):
    if "dtype" not in normzoo.info(normalizer).arguments:
        pytest.skip("holds no tensors")
    layer = normzoo.create(normalizer, CHANNELS, device="meta", dtype=torch.float64)
    floats = [value for value in layer.state_dict().values() if value.is_floating_point()]
    assert all(value.is_meta and value.dtype == torch.float64 for value in floats)
    assert layer(torch.empty(6, CHANNELS, 3, 3, device="meta", dtype=torch.float64)).shape == (6, CHANNELS, 3, 3)
