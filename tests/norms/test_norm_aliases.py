"""An alias computes what its owner does, by the owner's defaults; a name of several meanings is an error."""

import pytest
import torch
from torch import nn

import normzoo

timm = pytest.importorskip("timm")
from timm.layers.create_norm import _NORM_MAP  # noqa: E402
from timm.layers.create_norm_act import _NORM_ACT_MAP  # noqa: E402
from torchvision.ops import FrozenBatchNorm2d  # noqa: E402

CHANNELS = 64  # which timm's 32 groups divide
IMAGES, TOKENS, SERIES, ROWS = (3, CHANNELS, 4, 4), (3, 5, CHANNELS), (3, CHANNELS, 5), (6, CHANNELS)
VOLUMES = (3, CHANNELS, 2, 3, 2)
# Names that are one of ours too, but for a `_`, and mean the same with other groups by default.
OURS = {"groupnorm": {"num_groups": 32}, "evonorms0": {"num_groups": 32}, "evonorms1": {"num_groups": 32}}
OURS |= {"evonorms2": {"num_groups": 32}, "evonormb0": {"eps": 1e-3}}


def of_torch():
    for rank, shapes in ((1, (ROWS, SERIES)), (2, (IMAGES,)), (3, (VOLUMES,))):
        for kind in ("BatchNorm", "InstanceNorm"):
            owner = getattr(nn, f"{kind}{rank}d")
            for shape in shapes if kind == "BatchNorm" else shapes[-1:]:
                yield f"nn.{kind}{rank}d", {}, owner(CHANNELS), shape
                yield f"{kind}{rank}d", {}, owner(CHANNELS), shape
    for name in ("nn.LayerNorm", "torch.nn.LayerNorm", "nn.RMSNorm"):
        yield name, {}, getattr(nn, name.rpartition(".")[2])(CHANNELS), TOKENS
        yield name, {}, getattr(nn, name.rpartition(".")[2])(CHANNELS), ROWS
    yield "nn.GroupNorm", {"num_groups": 4}, nn.GroupNorm(4, CHANNELS), IMAGES
    yield "nn.Identity", {}, nn.Identity(), IMAGES
    yield "nn.LocalResponseNorm", {"size": 3}, nn.LocalResponseNorm(3), IMAGES
    yield "FrozenBatchNorm2d", {}, FrozenBatchNorm2d(CHANNELS), IMAGES


def of_timm():
    for name, owner in _NORM_MAP.items():
        if name in ("layernorm", "rmsnorm") or name.startswith("simplenorm"):
            continue
        shape = (
            ROWS if name.endswith("1d") else TOKENS if owner.__name__ in ("LayerNormFp32", "RmsNormFp32") else IMAGES
        )
        yield name, OURS.get(name, {}), owner(CHANNELS), shape
    for name in ("evonormb0", "evonormb1", "evonormb2", "evonorms0", "evonorms1", "evonorms2", "frntlu"):
        owner = _NORM_ACT_MAP[name]
        yield name, OURS.get(name, {}), owner(CHANNELS), IMAGES
        yield owner.__name__, {}, owner(CHANNELS), IMAGES
    split = timm.layers.split_batchnorm.SplitBatchNorm2d
    yield "SplitBatchNorm2d", {}, split(CHANNELS), (4, *IMAGES[1:])


CASES = [*of_torch(), *of_timm()]


@pytest.mark.parametrize(("alias", "options", "theirs", "shape"), CASES, ids=[f"{a}-{len(s)}" for a, _, _, s in CASES])
def test_an_alias_computes_what_its_owner_does(alias, options, theirs, shape):
    ours, theirs = normzoo.create(alias, CHANNELS, **options).double(), theirs.double()
    # Of another spread for each channel, and small, where an eps of another size shows.
    x = 0.02 * torch.randn(shape, dtype=torch.float64) + 0.01
    for training in (True, True, False):
        assert set(ours.state_dict()) - {"num_batches_tracked"} == set(theirs.state_dict()) - {"num_batches_tracked"}
        y, expected = ours.train(training)(x), theirs.train(training)(x)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "typed", ["LayerNorm", "layernorm", "RMSNorm", "RmsNorm", "LocalResponseNorm", "GlobalResponseNorm"]
)
@pytest.mark.parametrize("call", [lambda name: normzoo.create(name, 8), normzoo.factory, normzoo.info])
def test_a_name_of_several_norms_is_refused_with_those_to_take(typed, call):
    said = f"'{typed}' is ambiguous: that of .* is '"
    with pytest.raises(normzoo.UnknownNormError, match=said) as error:
        call(typed)
    for name in error.value.args[0].split("'")[3::2]:
        assert normzoo.info(name)


def test_the_options_of_an_alias_are_defaults():
    assert normzoo.create("EvoNorm2dB0", 8).eps == 1e-3
    assert normzoo.create("EvoNorm2dB0", 8, eps=1e-4).eps == 1e-4
    assert normzoo.factory("nn.LayerNorm", affine=False)(8).channel_dim == -1
    assert normzoo.create("LayerNorm2d", 8).channel_dim == 1
    assert normzoo.create("layer_norm_channel", 8).eps == 1e-5


def test_every_option_of_an_alias_is_one_of_its_norm():
    for name in normzoo.list_norms():
        info = normzoo.info(name)
        for alias in info.aliases:
            assert normzoo.info(alias) is info
            assert set(info.alias_options.get(alias, {})) <= set(info.arguments)
