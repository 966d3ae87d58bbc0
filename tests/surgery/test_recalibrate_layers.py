"""Whether a layer differs in evaluation, and can be recalibrated, is as the layer behaves: ours, torch's, timm's."""

import copy

import pytest
import torch
from torch import nn

import normzoo
from normzoo.probes.train_eval_gap import can_recalibrate, differs, with_batch_statistics
from normzoo.surgery.recalibrate import recalibrate
from normzoo.surgery.report import SurgeryError
from normzoo.surgery.running import running_statistics, tracks

timm_layers = pytest.importorskip("timm.layers")


def built_otherwise():
    """Every norm of a model as it is built, and with running statistics where the default has none, or without."""
    for name in normzoo.list_norms(kind="layer"):
        yield name, {}
        default = normzoo.info(name).arguments.get("track_running_stats")
        if default is not None:
            yield name, {"track_running_stats": not default}


OTHERS = {
    "nn.BatchNorm2d": lambda c: nn.BatchNorm2d(c),
    "nn.BatchNorm2d untracked": lambda c: nn.BatchNorm2d(c, track_running_stats=False),
    "nn.BatchNorm2d switched off": lambda c: switched_off(nn.BatchNorm2d(c)),
    "nn.SyncBatchNorm": lambda c: nn.SyncBatchNorm(c),
    "nn.InstanceNorm2d": lambda c: nn.InstanceNorm2d(c),
    "nn.InstanceNorm2d tracked": lambda c: nn.InstanceNorm2d(c, track_running_stats=True),
    "nn.InstanceNorm2d switched off": lambda c: switched_off(nn.InstanceNorm2d(c, track_running_stats=True)),
    "nn.GroupNorm": lambda c: nn.GroupNorm(2, c),
    "timm BatchNormAct2d": lambda c: timm_layers.BatchNormAct2d(c),
    "timm EvoNorm2dB0": lambda c: timm_layers.EvoNorm2dB0(c),
    "timm FrozenBatchNormAct2d": lambda c: timm_layers.FrozenBatchNormAct2d(c),
}
LAYERS = {
    **{
        f"{name} {options or ''}": lambda c, n=name, o=options: normzoo.create(n, c, **o)
        for name, options in built_otherwise()
    },
    **OTHERS,
}


def switched_off(layer):
    layer.track_running_stats = False
    return layer


def batches(count=3):
    generator = torch.Generator().manual_seed(3)
    return [2 * torch.randn(6, 8, 4, 4, generator=generator) + 3 for _ in range(count)]


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    layer = LAYERS[request.param](8)
    layer(batches()[0])
    return layer


def test_a_layer_differs_where_its_outputs_do(layer):
    x = batches()[1]
    trained, evaluated = copy.deepcopy(layer).train()(x), copy.deepcopy(layer).eval()(x)
    assert differs(nn.Sequential(layer)) == (not torch.allclose(trained, evaluated, atol=1e-4))
    torch.testing.assert_close(with_batch_statistics(nn.Sequential(layer))(x), trained)


def test_what_is_recalibrated_forgets_its_past_and_nothing_else_is_touched(layer):
    twin = copy.deepcopy(layer)
    twin(100 * batches()[0])  # another past
    for each in (layer, twin):
        kept = copy.deepcopy(each)
        if not any(map(tracks, each.modules())):
            with pytest.raises(SurgeryError):
                recalibrate(each, batches())
            assert all(torch.equal(old, each.state_dict()[name]) for name, old in kept.state_dict().items())
            continue
        recalibrate(each, batches())
        assert getattr(each, "momentum", None) == getattr(kept, "momentum", None)
        names = set(running_statistics(each))
        for name, buffer in each.named_buffers(recurse=False):
            first_count = name == "num_batches_tracked" and not kept.get_buffer(name)
            assert name in names or first_count or torch.equal(buffer, kept.get_buffer(name)), name
    for name in running_statistics(layer) if tracks(layer) else ():
        torch.testing.assert_close(layer.get_buffer(name), twin.get_buffer(name), rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", normzoo.list_norms(kind="layer", train_eval_differ=True))
def test_every_norm_that_differs_in_evaluation_can_be_recalibrated(name):
    assert can_recalibrate(nn.Sequential(normzoo.create(name, 8)))
