"""What a factory builds for a model: keywords of the model's own, and norm and activation in one."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

import normzoo
from normzoo.norm_act import OF_MODELS, NormAct

LAYERS = [
    name
    for name in normzoo.list_norms(kind="layer")
    if inspect.Parameter.empty not in normzoo.info(name).arguments.values()
]
OWN_ACTIVATION = normzoo.list_norms(includes_activation=True)


def with_act(name="batch_norm", **keywords):
    return normzoo.factory(name, **keywords)(8, act_layer=nn.PReLU)


@pytest.mark.parametrize("norm", LAYERS)
def test_what_a_model_passes_to_every_norm_is_left_out_where_a_norm_has_it_not(norm):
    of_model = {"eps": 1e-3, "momentum": 0.2, "affine": True, "track_running_stats": True, "bias": True}
    layer = normzoo.factory(norm)(8, **of_model, device=None, dtype=None)
    for keyword in set(of_model) & set(normzoo.info(norm).arguments):
        if hasattr(layer, keyword) and keyword != "bias":
            assert getattr(layer, keyword) == of_model[keyword]


@pytest.mark.parametrize("norm", LAYERS)
def test_what_the_user_passes_is_refused_where_a_norm_has_it_not(norm):
    for keyword in set(OF_MODELS) - set(normzoo.info(norm).arguments):
        for build in (lambda **k: normzoo.create(norm, 8, **k), lambda **k: normzoo.factory(norm, **k)):
            with pytest.raises(TypeError, match=f"{norm}: unknown keyword '{keyword}'.*; accepted: "):
                build(**{keyword: 1})


def test_a_misspelt_keyword_of_a_model_is_refused_too():
    with pytest.raises(TypeError, match=r"GroupNorm: unknown keyword 'num_group' \(did you mean 'num_groups'\?\); acc"):
        normzoo.factory("group_norm")(8, num_group=2)


def test_elementwise_affine_is_affine():
    assert normzoo.factory("rms_norm")(8, elementwise_affine=False).weight is None


def test_a_norm_with_activation_shows_its_norm():
    layer = with_act(eps=1e-3)
    for name in ("weight", "bias", "eps", "momentum", "num_features", "affine", "running_mean", "num_batches_tracked"):
        assert getattr(layer, name) is getattr(layer.norm, name)
    assert layer.act.weight is not layer.weight
    with pytest.raises(AttributeError, match="nothing"):
        layer.nothing  # noqa: B018
    layer.momentum = None
    layer.weight = nn.Parameter(torch.full((8,), 2.0))
    assert layer.norm.momentum is None
    assert layer.norm.weight[0] == 2
    assert layer.includes_activation
    nn.init.zeros_(layer.weight)
    assert not layer.norm.weight.any()


@pytest.mark.parametrize("norm", ["batch_norm", "group_norm", "split_batch_norm", "identity", "scale_norm"])
def test_a_norm_with_activation_is_saved_under_the_plain_names(norm):
    layer = with_act(norm)
    assert set(layer.state_dict(prefix="a.")) == {f"a.{key}" for key in (*layer.norm.state_dict(), "act.weight")}
    for parameter in layer.parameters():
        nn.init.uniform_(parameter)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = with_act(norm)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    earlier = {f"norm.{key}": value for key, value in layer.norm.state_dict().items()}
    older = with_act(norm)
    older.load_state_dict({**earlier, "act.weight": layer.act.weight})
    for twin in (loaded, older, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert set(twin.state_dict()) == set(layer.state_dict())
        torch.testing.assert_close(twin.state_dict(), layer.state_dict())


def test_converting_to_sync_batch_norm_leaves_the_activation():
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(with_act())
    assert [type(part) for part in layer] == [nn.SyncBatchNorm, nn.PReLU]


def test_a_norm_with_activation_compiles():
    torch._dynamo.reset()
    layer, x = with_act(), torch.randn(4, 8, 3, 3)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("norm", OWN_ACTIVATION)
def test_a_model_that_asks_for_no_activation_gets_none_or_is_told(norm):
    if norm == "filter_response_norm":
        layer = normzoo.factory(norm)(8, act_layer=nn.ReLU, apply_act=False)
        assert layer.tau is None
        assert not layer.includes_activation
    else:
        with pytest.warns(UserWarning, match="includes an activation.*apply_act=False"):
            normzoo.factory(norm)(8, act_layer=nn.ReLU, apply_act=False)


# One small model of each family of timm's that builds its norms with their activations and takes a norm from outside.
FAMILIES = (
    "test_byobnet", "cs3darknet_focus_s", "darknet17", "densenet121", "ese_vovnet19b_slim_dw", "mnasnet_050",
    "mobilevit_xxs", "regnetx_002", "resnetv2_18", "xception41p", "dpn48b",
)  # fmt: skip


@pytest.mark.parametrize("model", FAMILIES)
def test_models_of_timm_with_our_norms_hold_the_weights_of_the_stock_models(model):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        stock = timm.create_model(model)
        ours = timm.create_model(model, norm_layer=normzoo.factory("batch_norm"))
        for norm in ("group_norm", "dynamic_tanh", "evo_norm_s0"):
            other = timm.create_model(model, norm_layer=normzoo.factory(norm))
            assert sum(1 for _ in normzoo.norm_layers(other)) == sum(1 for _ in normzoo.norm_layers(ours))
    assert any(isinstance(module, NormAct) for module in ours.modules())
    for one, other in ((stock, ours), (ours, stock)):
        one.load_state_dict(other.state_dict(), assign=True)
