"""Against torch on torch's own sample inputs (OpInfo, ModuleInfo), which nobody here has chosen."""

import copy
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import normzoo

pytest.importorskip("expecttest", reason="torch's own test tables need it")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    file = tmp_path_factory.mktemp("samples") / "samples.pt"
    script = Path(__file__).with_name("torch_samples.py")
    subprocess.run([sys.executable, str(script), str(file)], check=True, capture_output=True, timeout=600)
    return torch.load(file, weights_only=True)


def a_layer(name, channels, weight, bias, **keywords):
    """With this weight and bias; of a pair that is not given, ones and zeros."""
    accepted = normzoo.info(name).arguments
    keywords = {key: value for key, value in keywords.items() if key in accepted and value is not None}
    if "affine" in accepted:
        keywords["affine"] = weight is not None or bias is not None
    # torch's samples have an eps and a momentum below 0, which no layer is built with.
    odd = {key: keywords.pop(key) for key in ("eps", "momentum") if keywords.get(key, 0) < 0}
    layer = normzoo.create(name, channels, **keywords).double()
    for key, value in odd.items():
        setattr(layer, key, value)
    for key, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            getattr(layer, key).data.copy_(value)
    return layer


def the_same(ours, theirs, x):
    """Output and gradient of the input, for a function of x each."""
    results = []
    for function in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        # A weighting of its own for each value, as the sum of a normalized output is a constant.
        (grad,) = torch.autograd.grad((y * torch.linspace(-1, 2, y.numel()).to(y).view_as(y)).sum(), leaf)
        results.append((y.detach(), grad))
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("norm", ["batch_norm", "batch_norm_scratch", "sync_batch_norm"])
def test_batch_norm(samples, norm):
    compared = 0
    for x, (mean, var, weight, bias), given in samples["batch_norm"]:
        training, momentum, eps = given.get("training", False), given.get("momentum", 0.1), given.get("eps", 1e-5)
        tracked = mean is not None
        if x.dim() == 1:
            with pytest.raises(ValueError, match=r"\(N, C, \*\)"):
                normzoo.create(norm, 1)(x)
            continue
        layer = a_layer(
            norm, x.shape[1], weight, bias, eps=eps, momentum=momentum, track_running_stats=tracked
        ).train(training)  # fmt: skip
        running = (mean.clone(), var.clone()) if tracked else (None, None)
        theirs = partial(
            F.batch_norm, running_mean=running[0], running_var=running[1], weight=weight, bias=bias, **given
        )
        if tracked:
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)
        the_same(layer, theirs, x)
        if tracked:
            torch.testing.assert_close([layer.running_mean, layer.running_var], list(running))
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("norm", ["group_norm", "group_norm_scratch"])
def test_group_norm(samples, norm):
    for x, (num_groups,), given in samples["group_norm"]:
        layer = a_layer(
            norm, x.shape[1], given.get("weight"), given.get("bias"), num_groups=num_groups, eps=given.get("eps")
        )
        the_same(layer, partial(F.group_norm, num_groups=num_groups, **given), x)


@pytest.mark.parametrize("norm", ["instance_norm", "instance_norm_scratch"])
def test_instance_norm(samples, norm):
    for x, _, given in samples["instance_norm"]:
        keywords = {key: given[key] for key in ("eps", "momentum") if key in given}
        tracked = "running_mean" in given and "track_running_stats" in normzoo.info(norm).arguments
        layer = a_layer(
            norm, x.shape[1], given.get("weight"), given.get("bias"), track_running_stats=tracked, **keywords
        )
        given = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in given.items()}
        if tracked:
            layer.running_mean.copy_(given["running_mean"])
            layer.running_var.copy_(given["running_var"])
        the_same(layer, partial(F.instance_norm, **given), x)
        if tracked:
            torch.testing.assert_close(
                [layer.running_mean, layer.running_var], [given["running_mean"], given["running_var"]]
            )


@pytest.mark.parametrize("norm", ["layer_norm", "layer_norm_scratch", "layer_norm_channel"])
def test_layer_norm(samples, norm):
    compared = 0
    for x, (shape, *affine), given in samples["layer_norm"]:
        weight, bias = affine or (None, None)
        if math.prod(shape) == 1:
            refuses_a_single_value(norm)
            continue
        ours = per_sample(norm, x, shape, weight, bias, **given)
        the_same(ours, partial(F.layer_norm, normalized_shape=shape, weight=weight, bias=bias, **given), x)
        compared += 1
    assert compared >= 4


def test_rms_norm(samples):
    for x, (shape, *affine), given in samples["rms_norm"]:
        if math.prod(shape) == 1:
            refuses_a_single_value("rms_norm")
            continue
        weight = affine[0] if affine else None
        ours = per_sample("rms_norm", x, shape, weight, None, **given)
        the_same(ours, partial(F.rms_norm, normalized_shape=shape, weight=weight, **given), x)


def refuses_a_single_value(norm):
    """Which torch takes, and returns the bias or the sign."""
    with pytest.raises(ValueError, match="a single value"):
        normzoo.create(norm, 1)(torch.zeros(2, 1))


def per_sample(name, x, shape, weight, bias, **keywords):
    """Our layer on the last dimensions, of this shape: as channels, or as channels and positions.

    torch's weight is of the shape of all of them, ours of the channels.
    """
    if name not in ("layer_norm", "layer_norm_scratch"):
        weight, bias = (value if value is None else value.flatten() for value in (weight, bias))
        layer = a_layer(name, math.prod(shape), weight, bias, channel_dim=-1, **keywords)
        return lambda x: layer(x.reshape(-1, math.prod(shape))).view_as(x)
    layer = a_layer(name, shape[0], None, None, **keywords)

    def ours(x):
        y = layer(x.reshape(-1, *shape)).view_as(x)
        return (y if weight is None else y * weight) + (0 if bias is None else bias)

    return ours


def test_local_response_norm(samples):
    for x, (size,), given in samples["local_response_norm"]:
        keywords = {"alpha": 1e-4, "beta": 0.75, "k": 1.0, **given}
        layer = normzoo.create("local_response_norm", x.shape[1], size=size, **keywords)
        the_same(layer, partial(F.local_response_norm, size=size, **given), x)


BATCH = ("num_features", "eps", "momentum", "affine", "track_running_stats")
MODULES = {
    "BatchNorm1d": ("batch_norm", BATCH),
    "BatchNorm2d": ("batch_norm", BATCH),
    "BatchNorm3d": ("batch_norm", BATCH),
    "GroupNorm": ("group_norm", ("num_groups", "num_features", "eps", "affine")),
    "InstanceNorm1d": ("instance_norm", BATCH),
    "InstanceNorm2d": ("instance_norm", BATCH),
    "InstanceNorm3d": ("instance_norm", BATCH),
    "LocalResponseNorm": ("local_response_norm", ("size", "alpha", "beta", "k")),
}


@pytest.mark.parametrize("theirs", MODULES)
def test_modules(samples, theirs):
    """Built with the same arguments and the same weights, in two steps of training and then in evaluation."""
    name, arguments = MODULES[theirs]
    for args, given, x in samples[theirs]:
        torchs = getattr(nn, theirs)(*args, **given).double()
        keywords = {**dict(zip(arguments, args, strict=False)), **given}
        without_bias = not keywords.pop("bias", True)
        if name == "instance_norm":
            keywords.setdefault("affine", False)  # torch's default, and not ours
        channels = keywords.pop("num_features", x.shape[1])
        if theirs == "LocalResponseNorm":
            keywords = {"alpha": 1e-4, "beta": 0.75, "k": 1.0, **keywords}
        ours = normzoo.create(name, channels, **keywords).double()
        for parameter in torchs.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
        missing, unexpected = ours.load_state_dict(torchs.state_dict(), strict=False)
        assert missing == (["bias"] if without_bias else [])
        assert not unexpected
        batched = x.dim() == {"1": 3, "2": 4, "3": 5}.get(theirs[-2], x.dim()) or name != "instance_norm"
        for training in (True, True, False):
            the_same(
                with_batch(ours.train(training), batched), torchs.train(training), torch.randn_like(x)
            )  # fmt: skip
        state = ours.state_dict()
        if without_bias:
            del state["bias"]
        expected = torchs.state_dict()
        for each in (state, expected):
            each.pop("num_batches_tracked", None)  # torch's instance norm never counts
        torch.testing.assert_close(dict(state), dict(expected))


def with_batch(layer, batched):
    return layer if batched else lambda x: layer(x[None])[0]


@pytest.mark.parametrize(
    ("theirs", "names"),
    [("LayerNorm", ("layer_norm", "layer_norm_scratch", "layer_norm_channel")), ("RMSNorm", ("rms_norm",))],
)
def test_modules_of_a_shape(samples, theirs, names):
    for (shape, eps, *affine), given, x in samples[theirs]:
        torchs = getattr(nn, theirs)(shape, eps, *affine, **given).double()
        for parameter in torchs.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
        for name in names:
            weight, bias = (getattr(torchs, key, None) for key in ("weight", "bias"))
            ours = per_sample(name, x, shape, weight, bias, eps=eps)
            the_same(ours, copy.deepcopy(torchs), x)
