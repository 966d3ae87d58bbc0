"""Norms are identified by what they compute."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import normzoo
from normzoo.surgery.identify import find_norms, identify
from tests.surgery import strangers

C = 6


def zeroed(layer):
    nn.init.zeros_(layer.weight)
    return layer


IDENTIFIED = {
    "torch's batch norm": (nn.BatchNorm2d(C), "batch_norm", 1, {"eps": 1e-5, "momentum": 0.1, "over": "batch"}),
    "without statistics": (nn.BatchNorm1d(C, track_running_stats=False), "batch_norm", 1, {"mean": None, "over": ""}),
    "torch's sync batch norm": (nn.SyncBatchNorm(C, eps=1e-3), "sync_batch_norm", 1, {"eps": 1e-3}),
    "torch's instance norm": (nn.InstanceNorm2d(C), "instance_norm", 1, {"weight": None, "bias": None, "mean": None}),
    "tracked instance norm": (nn.InstanceNorm3d(C, track_running_stats=True), "instance_norm", 1, {"over": "instance"}),
    "torch's group norm": (nn.GroupNorm(3, C), "group_norm", 1, {"num_groups": 3, "weight": "weight"}),
    "torch's layer norm": (nn.LayerNorm(C, bias=False), "layer_norm_channel", -1, {"weight": "weight", "bias": None}),
    "torch's RMS norm": (nn.RMSNorm(C), "rms_norm", -1, {"eps": None}),
    "ours": (normzoo.create("ghost_batch_norm", C, group_size=4), "ghost_batch_norm", 1, {"over": "batch"}),
    "ours for tokens": (normzoo.create("nn.LayerNorm", C), "layer_norm_channel", -1, {"bias": "bias"}),
    "T5's": (strangers.T5LayerNorm(C), "rms_norm", -1, {"eps": 1e-6, "weight_offset": 0.0, "bias": None}),
    "Gemma's": (strangers.GemmaRMSNorm(C), "rms_norm", -1, {"weight": "weight", "weight_offset": 1.0}),
    "BERT's": (strangers.BertLayerNorm(C), "layer_norm_channel", -1, {"eps": 1e-12, "weight": "gamma", "bias": "beta"}),
    "channels first": (strangers.ChannelsFirstNorm(C), "layer_norm_channel", 1, {"eps": 1e-6}),
    "Flax's": (
        strangers.FlaxBatchNorm(C),
        "batch_norm",
        1,
        {"momentum": 0.01, "eps": 1e-3, "weight": "scale", "bias": "offset", "mean": "moving_mean"},
    ),
    "a subclass": (
        strangers.MaskedBatchNorm(C),
        "batch_norm",
        1,
        {"arguments": ("mask",), "count": "num_batches_tracked"},
    ),
    "one channel": (strangers.MaskedBatchNorm(1), "batch_norm", 1, {"num_features": 1}),
    "a cumulative average": (strangers.MaskedBatchNorm(C, momentum=None), "batch_norm", 1, {"momentum": None}),
    "a weight of zeros": (zeroed(strangers.T5LayerNorm(C)), "rms_norm", -1, {"weight": "weight"}),
    "on meta": (strangers.MaskedBatchNorm(C).to("meta"), "batch_norm", 1, {"weight": "weight"}),
    "in half precision": (strangers.MaskedBatchNorm(C).half(), "batch_norm", 1, {"eps": 1e-5}),
}


@pytest.mark.parametrize("case", IDENTIFIED)
def test_a_norm_is_what_it_computes(case):
    layer, equation, channel_dim, facts = IDENTIFIED[case]
    norm = identify(layer)
    assert (norm.equation, norm.channel_dim, norm.reason) == (equation, channel_dim, "")
    assert {name: getattr(norm, name) for name in facts} == facts


def replaced():
    layer = nn.BatchNorm2d(C)
    layer.forward = lambda x: x
    return layer


def parametrized():
    layer = nn.LayerNorm(C)
    parametrize.register_parametrization(layer, "weight", nn.Softplus())
    return layer


UNIDENTIFIED = {
    "absolute weight": (lambda: strangers.AbsoluteBatchNorm(C), "none of the known equations"),
    "rectified": (lambda: strangers.RectifiedGroupNorm(3, C), "none of the known equations"),
    "gated": (lambda: strangers.GatedNorm(C), "takes gate besides the input"),
    "without parameters": (strangers.PixelNorm, "pass sample="),
    "lazy": (nn.LazyBatchNorm2d, "run one batch first"),
    "replaced forward": (replaced, "forward was replaced"),
    "parametrized": (parametrized, "parametrize"),
    "scripted": (lambda: torch.jit.script(nn.BatchNorm2d(C)), "before torch.jit.script"),
}


@pytest.mark.parametrize("case", UNIDENTIFIED)
def test_a_norm_that_fits_no_equation_is_not_guessed(case):
    build, reason = UNIDENTIFIED[case]
    norm = identify(build())
    assert norm.equation == ""
    assert reason in norm.reason


def test_a_layer_without_parameters_is_identified_by_the_shape_of_an_input():
    norm = identify(strangers.PixelNorm(), (2, C, 4, 4))
    assert (norm.equation, norm.num_features, norm.channel_dim, norm.weight) == ("rms_norm", C, 1, None)
    assert norm.eps == pytest.approx(1e-8, rel=1e-2)


@pytest.mark.parametrize("name", ["BatchNormAct2d", "GroupNormAct", "LayerNormAct2d", "RmsNormAct"])
def test_the_activation_of_a_norm_is_told_apart(name):
    layers = pytest.importorskip("timm.layers")
    options = {"num_groups": 3} if name == "GroupNormAct" else {}
    layer = getattr(layers, name)(C, act_layer=nn.SiLU, drop_layer=nn.Dropout, **options)
    assert identify(layer).after == ("drop", "act")


def test_a_probe_changes_nothing():
    layer = pytest.importorskip("timm.layers").BatchNormAct2d(C, drop_layer=nn.Dropout)
    layer.register_forward_hook(lambda *_: pytest.fail("the layer was called"))
    before, random = {name: value.clone() for name, value in layer.state_dict().items()}, torch.get_rng_state()
    modes = [module.training for module in layer.eval().drop.train().modules()]
    identify(layer)
    torch.testing.assert_close(layer.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in layer.drop.modules()] == modes


def test_norms_of_a_model_are_found_once_and_nothing_else():
    shared = nn.BatchNorm2d(C)
    model = nn.ModuleDict(
        {
            "a": shared,
            "b": shared,
            "scale": strangers.LayerScale(C),
            "gated": strangers.GatedNorm(C),
            "act": nn.PReLU(C),
            "inner": nn.Sequential(strangers.T5LayerNorm(C), nn.Linear(C, C)),
            "whole": normzoo.create("ibn", C),
            "weight": parametrizations.weight_norm(nn.Linear(C, C)),
        }
    )
    found = {name: norm.equation for name, _, norm in find_norms(model)}
    assert found == {"a": "batch_norm", "gated": "", "inner.0": "rms_norm", "whole": "ibn"}
    assert [name for name, *_ in find_norms(shared)] == [""]
