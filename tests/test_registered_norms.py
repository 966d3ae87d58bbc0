"""No norm is registered without what belongs to it, and each is found by what people already type."""

import inspect
import re
from pathlib import Path

import pytest
from torch import nn

import normzoo
from normzoo.identity import cell_id
from normzoo.registry import HYDRA_TARGET

omegaconf = pytest.importorskip("omegaconf")
hydra = pytest.importorskip("hydra")

CONFIGS = Path(normzoo.__file__).parent / "conf" / "norm"
NAMES = [name for name in normzoo.list_norms() if normzoo.info(name).build.__module__.startswith("normzoo.")]
WITHOUT_PAPER = {"identity"}
# What some norms cannot be built without.
NEEDED = {"num_classes": 3, "num_domains": 2, "condition_features": 5, "label_channels": 2}


def takes_first(name):
    """What the norm is built for: channels, or the layer whose weight it is for."""
    return nn.Linear(8, 8) if normzoo.info(name).kind == "weight" else 8


# Source library, what its users type, and the norm here. A plain LN is that of convolutional networks, over channels
# and positions; detectron2's, over channels, is `layer_norm_channel`.
TYPED = [
    ("torch", "Identity", "identity"),
    ("torch", "nn.Identity", "identity"),
    ("torch", "BatchNorm1d", "batch_norm"),
    ("torch", "nn.BatchNorm2d", "batch_norm"),
    ("torch", "torch.nn.BatchNorm3d", "batch_norm"),
    ("torch", "nn.SyncBatchNorm", "sync_batch_norm"),
    ("torch", "torch.nn.GroupNorm", "group_norm"),
    ("torch", "nn.LayerNorm", "layer_norm_channel"),
    ("torch", "torch.nn.LayerNorm", "layer_norm_channel"),
    ("torch", "InstanceNorm1d", "instance_norm"),
    ("torch", "nn.InstanceNorm2d", "instance_norm"),
    ("torch", "torch.nn.InstanceNorm3d", "instance_norm"),
    ("timm", "batchnorm", "batch_norm"),
    ("timm", "batchnorm1d", "batch_norm"),
    ("timm", "batchnorm2d", "batch_norm"),
    ("timm", "frozenbatchnorm2d", "frozen_batch_norm"),
    ("timm", "SplitBatchNorm2d", "split_batch_norm"),
    ("timm", "groupnorm", "group_norm"),
    ("timm", "groupnorm1", "layer_norm"),
    ("timm", "layernorm2d", "layer_norm_channel"),
    ("timm", "layernormfp32", "layer_norm_channel"),
    ("timm", "layernorm2dfp32", "layer_norm_channel"),
    ("timm", "rmsnorm2d", "rms_norm"),
    ("timm", "rmsnormfp32", "rms_norm"),
    ("timm", "rmsnorm2dfp32", "rms_norm"),
    ("timm", "frntlu", "filter_response_norm"),
    ("timm", "evonormb0", "evo_norm_b0"),
    ("timm", "evonorms0", "evo_norm_s0"),
    ("torch", "nn.RMSNorm", "rms_norm"),
    ("mmcv", "BN", "batch_norm"),
    ("mmcv", "BN1d", "batch_norm"),
    ("mmcv", "BN2d", "batch_norm"),
    ("mmcv", "BN3d", "batch_norm"),
    ("mmcv", "SyncBN", "sync_batch_norm"),
    ("mmcv", "MMSyncBN", "sync_batch_norm"),
    ("mmcv", "GN", "group_norm"),
    ("tables of papers", "LN", "layer_norm"),
    ("mmcv", "LN2d", "layer_norm_channel"),
    ("mmcv", "IN", "instance_norm"),
    ("mmcv", "IN1d", "instance_norm"),
    ("mmcv", "IN2d", "instance_norm"),
    ("mmcv", "IN3d", "instance_norm"),
    ("detectron2", "BN", "batch_norm"),
    ("detectron2", "SyncBN", "sync_batch_norm"),
    ("detectron2", "nnSyncBN", "sync_batch_norm"),
    ("detectron2", "naiveSyncBN", "sync_batch_norm"),
    ("detectron2", "naiveSyncBN_N", "sync_batch_norm"),
    ("detectron2", "GN", "group_norm"),
    ("detectron2", "FrozenBN", "frozen_batch_norm"),
    ("torchvision", "FrozenBatchNorm2d", "frozen_batch_norm"),
    ("torch", "nn.LocalResponseNorm", "local_response_norm"),
    ("torch", "weight_norm", "weight_norm"),
    ("torch", "spectral_norm", "spectral_norm"),
    ("tables of papers", "none", "identity"),
    ("tables of papers", "LRN", "local_response_norm"),
    ("tables of papers", "GRN", "global_response_norm"),
    ("tables of papers", "DyT", "dynamic_tanh"),
    ("tables of papers", "Derf", "dynamic_erf"),
    ("tables of papers", "PONO", "positional_norm"),
    ("tables of papers", "DN", "divisive_norm"),
    ("tables of papers", "ScaleNorm", "scale_norm"),
    ("tables of papers", "PixelNorm", "pixel_norm"),
    ("tables of papers", "WN", "weight_norm"),
    ("tables of papers", "SN", "spectral_norm"),
    ("tables of papers", "WS", "weight_standardization"),
    ("tables of papers", "ghost_bn", "ghost_batch_norm"),
    ("tables of papers", "BRN", "batch_renorm"),
    ("people", "batch norm", "batch_norm"),
    ("people", "Batch-Norm", "batch_norm"),
    ("people", "instancenorm", "instance_norm"),
    ("people", "INSTANCE_NORM", "instance_norm"),
    ("people", "sync-bn", "sync_batch_norm"),
]


@pytest.mark.parametrize(("library", "typed", "name"), TYPED)
def test_names_of_other_libraries(library, typed, name):
    assert normzoo.info(typed).name == name


@pytest.mark.parametrize("kind", ["BatchNorm2d", "SyncBatchNorm", "GroupNorm", "InstanceNorm2d", "Identity"])
def test_the_class_name_of_a_torch_layer_is_a_name(kind):
    assert normzoo.info(getattr(nn, kind).__name__)


def test_every_norm_of_timm_that_we_have_is_found_by_its_name_there():
    """All of timm's table: what is not ours yet is said not to be, rather than taken for a neighbour."""
    from timm.layers.create_norm import _NORM_MAP

    # Learnt or frozen otherwise than anything here so far: a norm that is added takes its name off this list.
    absent = {name for name in _NORM_MAP if name.startswith("simplenorm")}
    known = {name for _, name, _ in TYPED} | {"layernorm", "rmsnorm"}  # which is told to be ambiguous
    for name in _NORM_MAP:
        assert name in known or name in absent
        if name in absent:
            with pytest.raises(normzoo.UnknownNormError):
                normzoo.info(name)


@pytest.mark.parametrize("name", NAMES)
def test_has_a_config_that_builds_it(name):
    """`conf/norm/<name>.yaml` holds the name and every option with its default."""
    config = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert config.pop("name") == name
    assert config.pop("_target_") == HYDRA_TARGET
    arguments = normzoo.info(name).arguments
    needed = {key: NEEDED[key] for key, default in arguments.items() if default is inspect.Parameter.empty}
    assert {key for key, value in config.items() if value == "???"} == set(needed), "an option that must be given"
    config |= needed
    defaults = {key: value for key, value in config.items() if key not in needed}
    assert defaults == {key: arguments[key] for key in defaults}, "a default differs from the layer's own"
    assert set(arguments) - set(config) <= {"device", "dtype"}, "an option is not in the config"
    assert isinstance(normzoo.factory(name, **config)(takes_first(name)), nn.Module)


@pytest.mark.parametrize("name", NAMES)
def test_its_config_becomes_a_factory_by_hydra_and_by_hand(name):
    config = omegaconf.OmegaConf.load(CONFIGS / f"{name}.yaml")
    config.update({key: NEEDED[key] for key in NEEDED if omegaconf.OmegaConf.is_missing(config, key)})
    expected = normzoo.factory(name, **{key: value for key, value in config.items() if key not in ("name", "_target_")})
    for made in (normzoo.factory(**config), hydra.utils.instantiate(config)):
        assert (made.func, made.keywords) == (expected.func, expected.keywords)


def test_a_cell_is_the_same_whether_its_norm_has_a_target():
    plain = {"norm": {"name": "batch_norm", "eps": 1e-5}, "seed": 0}
    assert cell_id(plain) == cell_id({**plain, "norm": {**plain["norm"], "_target_": HYDRA_TARGET}})


def test_an_option_that_came_later_names_other_cells_only_where_it_is_set():
    """So that a sweep of before goes on where it was."""
    plain = {"norm": {"name": "batch_norm", "eps": 1e-5}, "seed": 0}
    assert cell_id(plain) == cell_id({**plain, "norm": {**plain["norm"], "bias": True, "contiguous": False}})
    assert cell_id(plain) != cell_id({**plain, "norm": {**plain["norm"], "bias": False}})


def test_another_target_is_an_unknown_keyword():
    with pytest.raises(normzoo.UnknownArgumentError, match="unknown keyword '_target_'"):
        normzoo.factory("batch_norm", _target_="torch.nn.BatchNorm2d")


def test_no_config_is_without_its_norm():
    assert sorted(file.stem for file in CONFIGS.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_cites_its_paper(name):
    paper = normzoo.info(name).paper
    if name in WITHOUT_PAPER:
        assert paper == ""
    else:
        assert re.search(r"\b(19|20)\d\d\b", paper), f"authors and year are missing: {paper!r}"
        assert "arXiv:" in paper or len(paper) > 30, f"neither an arXiv number nor where it appeared: {paper!r}"


@pytest.mark.parametrize("name", NAMES)
def test_is_documented(name):
    info = normzoo.info(name)
    assert info.summary.endswith("."), "the docstring starts with one sentence"
    for part in ("Shape:", *(() if name in WITHOUT_PAPER else ("Source:",))):
        assert part in (info.build.__doc__ or ""), f"the docstring lacks {part}"
    documented = info.build.__doc__.partition("Args:")[2]
    missing = [key for key in info.arguments if key not in ("device", "dtype") and f" {key}:" not in documented]
    assert not missing, f"arguments without a word in the docstring: {missing}"
    assert info.reduces_over


@pytest.mark.parametrize("name", NAMES)
def test_name_and_class_agree(name):
    """`group_norm` is `GroupNorm` in `group_norm.py`, twins and numbered variants too; a norm of weights a function."""
    build = normzoo.info(name).build
    function = normzoo.info(name).kind == "weight"
    assert build.__name__ == name if function else build.__name__.lower() == name.replace("_", "")
    assert build.__module__ == f"normzoo.norms.{re.sub('_scratch$|[0-9]$', '', name)}"


@pytest.mark.parametrize("name", NAMES)
def test_takes_device_and_dtype_if_it_holds_tensors(name):
    if normzoo.info(name).kind == "weight":
        pytest.skip("takes those of the weight")
    arguments = normzoo.info(name).arguments
    if not normzoo.create(name, 8, **{key: NEEDED[key] for key in arguments if key in NEEDED}).state_dict():
        pytest.skip("holds no tensors")
    assert {"device", "dtype"} <= set(arguments)
