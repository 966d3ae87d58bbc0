"""Options set after a layer is built count at its next forward, as torch's do."""

import copy

import pytest
import torch
from torch import nn

import normzoo
from tests.norms.conditional_oracles import NEEDED
from tests.norms.norm_cases import CHANNELS, an_input

LIKE_BATCH_NORM = ["batch_norm", "batch_norm_scratch", "local_batch_norm", "sync_batch_norm", "ghost_batch_norm"]
NO_CUMULATIVE_AVERAGE = {"power_norm", "moving_average_batch_norm", "online_norm"}
OPTIONS = {"eps": 0.5, "momentum": 0.4}


def build(name, **keywords):
    if normzoo.info(name).kind == "weight":
        return normzoo.create(name, nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), **keywords).double()
    return normzoo.create(name, CHANNELS, **NEEDED.get(name, {}), **keywords).double()


def given(layer, seed=0):
    torch.manual_seed(seed)
    x = an_input(4)
    return (x, layer.example_condition(x)) if hasattr(layer, "example_condition") else (x,)


def having(option):
    return [name for name in normzoo.list_norms() if option in normzoo.info(name).arguments]


@pytest.mark.parametrize(("option", "norm"), [(option, name) for option in OPTIONS for name in having(option)])
def test_an_option_set_later_is_one_given_at_first(option, norm):
    built = build(norm, **{option: OPTIONS[option]})
    switched = build(norm)
    switched.load_state_dict(built.state_dict())
    for module in switched.parametrizations.weight if normzoo.info(norm).kind == "weight" else [switched]:
        setattr(module, option, OPTIONS[option])
    for training in (True, True, False):
        y, expected = (layer.train(training)(*given(layer)) for layer in (switched, built))
        torch.testing.assert_close(y, expected)
    torch.testing.assert_close(switched.state_dict(), built.state_dict())


@pytest.mark.parametrize("norm", [n for n in normzoo.list_norms() if hasattr(normzoo.info(n).build, "forward")])
def test_statistics_rest_while_track_running_stats_is_off(norm):
    layer = build(norm)
    if "track_running_stats" in normzoo.info(norm).arguments:
        layer = build(norm, track_running_stats=True)
    if getattr(layer, "running_mean", None) is None or not hasattr(layer, "track_running_stats"):
        pytest.skip("has no such option")
    layer(*given(layer))
    before = copy.deepcopy(layer.state_dict())
    layer.track_running_stats = False
    layer(*given(layer, seed=1))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    layer.track_running_stats = True
    layer(*given(layer, seed=1))
    assert not torch.equal(layer.state_dict()["running_mean"], before["running_mean"])


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("norm", LIKE_BATCH_NORM)
@pytest.mark.parametrize("first", [True, False])
def test_track_running_stats_is_read_as_torch_reads_it(norm, momentum, first):
    """Off, the batch is used in training and whatever running statistics there are in evaluation."""
    layer, twin = build(norm, momentum=momentum, track_running_stats=first), nn.BatchNorm2d(CHANNELS, momentum=momentum)
    twin = twin.double() if first else nn.BatchNorm2d(CHANNELS, track_running_stats=False).double()
    for tracked, training in [(True, True), (False, True), (False, False), (True, False), (True, True)]:
        (x,) = given(layer)
        for each in (layer, twin):
            each.track_running_stats = tracked
            each.train(training)
        torch.testing.assert_close(layer(x), twin(x))
        torch.testing.assert_close(layer.state_dict(), twin.state_dict())


def test_instance_norm_uses_the_instances_while_track_running_stats_is_off():
    layer, twin = (
        build("instance_norm", track_running_stats=True),
        nn.InstanceNorm2d(CHANNELS, track_running_stats=True),
    )
    for each in (layer, twin.double()):
        each.track_running_stats = False
    for training in (True, False):
        (x,) = given(layer)
        torch.testing.assert_close(layer.train(training)(x), twin.train(training)(x))


def test_caffes_rule_follows_the_momentum_too():
    switched = normzoo.create("batch_norm_scratch", CHANNELS, moving_average_fraction=0.9).double()
    built = normzoo.create("batch_norm_scratch", CHANNELS, moving_average_fraction=0.6).double()
    switched.momentum = 0.4
    for seed in range(3):
        for layer in (switched, built):
            layer(*given(layer, seed))
    torch.testing.assert_close(switched.state_dict(), built.state_dict())


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", [n for n in normzoo.list_norms() if normzoo.info(n).state and n != "spectral_norm"])
def test_statistics_in_half_precision_stay_finite(norm, dtype, momentum):
    """A variance of 250,000 is too large for float16; a part of it, by which torch's layer is moved as well, is not."""
    if momentum is None and norm in NO_CUMULATIVE_AVERAGE:
        pytest.skip("has no cumulative average")
    keywords = {"momentum": momentum} if norm not in NO_CUMULATIVE_AVERAGE else {}
    for layer in (build(norm, **keywords).to(dtype), nn.BatchNorm2d(CHANNELS, momentum=momentum).to(dtype)):
        for key, buffer in layer.named_buffers():
            if key.endswith("num_batches_tracked"):
                buffer += 20  # at 0 a cumulative average would be the variance itself
        for seed in range(2):
            x, *condition = given(layer, seed)
            layer((x * 250).to(dtype), *(c.to(dtype) if c.is_floating_point() else c for c in condition))
        for key, value in layer.state_dict().items():
            assert value.isfinite().all(), f"{key} of {type(layer).__name__}"
    assert layer.running_var.max() > 1e4, "too little to overflow"


@pytest.mark.parametrize("norm", [n for n in having("eps") if normzoo.info(n).state and n != "spectral_norm"])
def test_evaluation_in_half_precision_has_a_small_eps(norm):
    """float16 cannot write 1e-8, and a channel of variance 0 would be divided by 0."""
    layer = build(norm, eps=1e-8).half().eval()
    for key, buffer in layer.named_buffers():
        if key in ("running_var", "running_std", "running_power", "running_moment"):
            buffer.zero_()
    x, *condition = given(layer)
    x = (x * 1e-5).half()
    y = layer(x, *(c.half() if c.is_floating_point() else c for c in condition))
    expected = layer.double()(x.double(), *condition)
    torch.testing.assert_close(y.double(), expected, rtol=4e-3, atol=4e-3)
