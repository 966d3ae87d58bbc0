"""Every norm as the `norm_layer=` of torchvision's and timm's models, trained for one step."""

import functools
import inspect
import pickle

import pytest
import torch
from torch import nn

import normzoo
from normzoo.norm_act import NormAct
from normzoo.norms.scale_norm import ScaleNorm
from tests.norms.norm_cases import OF_EACH_KIND

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

# 64 pixels leave maps of 2x2 after the five halvings of these models, the least at which an instance has a variance.
IMAGES, SIZE, CLASSES = 4, 64, 5

IMAGE_NORMS = [
    name
    for name in normzoo.list_norms(kind="layer", ranks=4)
    if inspect.Parameter.empty not in normzoo.info(name).arguments.values()
]
FEW_AND_ALL = [pytest.param(name, marks=[] if name in OF_EACH_KIND else [pytest.mark.slow]) for name in IMAGE_NORMS]
# Made for a transformer, or for AlexNet; from their initial values the signal fades over 50 layers.
FADING = {"dynamic_erf", "dynamic_tanh", "local_response_norm"}
# What whitens needs more values than channels in a group, and 4 images of 2x2 give 16.
WHITENING = {"channels_per_group": 4}
KEYWORDS = {
    "ghost_batch_norm": {"group_size": 2},
    "decorrelated_batch_norm": WHITENING,
    "iter_norm": WHITENING,
}
# For the models that put a ReLU of their own after a norm, as torchvision's do and timm's residual networks: the
# threshold that filter response norm has in a ReLU's place is left out.
BEFORE_A_RELU = KEYWORDS | {"filter_response_norm": {"tlu": False}}
TOKEN_NORMS = [name for name in IMAGE_NORMS if "channel_dim" in normzoo.info(name).arguments]


def build(model, norm_layer, **kwargs):
    return model(num_classes=CLASSES, norm_layer=norm_layer, **kwargs)


def ours_in(model, norm_layer) -> list[nn.Module]:
    """The norms of the model, all of the class that the factory builds; none of the library's own is left."""
    found = [layer for _, layer in normzoo.norm_layers(model)]
    assert {type(layer) for layer in found} == {type(norm_layer(8))}
    known = {module for layer in found for module in layer.modules()}
    library = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    left = [name for name, module in model.named_modules() if isinstance(module, library) and module not in known]
    assert not left
    return found


def train_one_step(model, size=SIZE, least=0.5):
    x, y = torch.randn(IMAGES, 3, size, size), torch.arange(IMAGES) % CLASSES
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(model.train()(x), y)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    unreached = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # The one number of a scale norm has a gradient of zero where the next norm takes the scale out again.
    assert not unreached - {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, ScaleNorm)}
    # Not all: without a norm, or behind a layer scale of 1e-6, a step may be smaller than the parameter's last digit.
    changed = [not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True)]
    assert sum(changed) > len(changed) * least
    with torch.no_grad():
        assert torch.isfinite(model.eval()(x)).all()


@pytest.mark.parametrize("name", FEW_AND_ALL)
@pytest.mark.parametrize(("model", "norms"), [("resnet18", 20), ("mobilenet_v2", 52)])
def test_torchvision(model, norms, name):
    norm_layer = normzoo.factory(name, **BEFORE_A_RELU.get(name, {}))
    model = build(getattr(torchvision.models, model), norm_layer)
    assert len(ours_in(model, norm_layer)) == norms
    train_one_step(model, least=0 if name in FADING else 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch_norm", "group_norm", "layer_norm", "instance_norm"])
def test_torchvision_resnet50(name):
    norm_layer = normzoo.factory(name, **KEYWORDS.get(name, {}))
    model = build(torchvision.models.resnet50, norm_layer)
    assert len(ours_in(model, norm_layer)) == 53
    train_one_step(model)


@pytest.mark.parametrize("model", ["DenseNet", "VGG", "GoogLeNet", "ShuffleNetV2", "MNASNet"])
def test_models_of_torchvision_that_take_no_norm_layer(model):
    """README names them. timm's densenet121 takes one."""
    assert "norm_layer" not in inspect.signature(getattr(torchvision.models, model)).parameters


@pytest.mark.parametrize(
    ("library", "model"),
    [
        *(("torchvision", model) for model in ("mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf")),
        *(("timm", model) for model in ("efficientnet_b0", "regnety_002")),
    ],
)
def test_models_of_the_readme_hold_no_other_norm(library, model):
    """Those that are not trained here."""
    make = functools.partial(timm.create_model, model) if library == "timm" else getattr(torchvision.models, model)
    norm_layer = normzoo.factory("group_norm", channels_per_group=8)
    net = build(make, norm_layer).eval()
    assert len(ours_in(net, norm_layer)) > 30
    assert net(torch.randn(1, 3, SIZE, SIZE)).shape == (1, CLASSES)


@pytest.mark.parametrize("name", ["filter_response_norm", "evo_norm_s0"])
def test_a_resnet_puts_its_relu_behind_a_norm_that_has_one(name):
    """As README says: it asks for a norm alone, so that nothing can leave it out. Others ask for both in one."""
    with torch.device("meta"):
        for make, relus in (
            (torchvision.models.resnet18, 9),  # modules; each is called twice in its block
            (functools.partial(timm.create_model, "resnet18"), 17),
            (functools.partial(timm.create_model, "densenet121"), 0),
        ):
            assert activations(build(make, normzoo.factory(name))).get("ReLU", 0) == relus


@pytest.mark.parametrize("name", FEW_AND_ALL)
def test_timm_resnet(name):
    norm_layer = normzoo.factory(name, **BEFORE_A_RELU.get(name, {}))
    model = build(functools.partial(timm.create_model, "resnet10t", zero_init_last=False), norm_layer)
    assert len(ours_in(model, norm_layer)) == len(bn_names("resnet10t"))
    train_one_step(model)


@pytest.mark.parametrize("name", FEW_AND_ALL)
def test_timm_mobilenet_asks_for_norm_and_activation_in_one(name):
    """`get_norm_act_layer` goes by class name, and would put timm's GroupNormAct in the place of our GroupNorm."""
    norm_layer = normzoo.factory(name, **KEYWORDS.get(name, {}))
    model = build(functools.partial(timm.create_model, "mobilenetv2_035"), norm_layer)
    assert len(ours_in(model, norm_layer)) == len(bn_names("mobilenetv2_035"))
    if not normzoo.info(name).includes_activation:
        stock = timm.create_model("mobilenetv2_035")
        assert activations(model) == activations(stock)
        assert activations(model)["ReLU6"] == 35
        with_act = {key.removesuffix(".act") for key, m in stock.named_modules() if type(m) is nn.ReLU6}
        assert {key for key, m in model.named_modules() if isinstance(m, NormAct)} == with_act
    train_one_step(model, least=0 if name in FADING else 0.5)


def test_timm_mobilenet_v3_takes_no_norm_from_outside():
    """Not torch's own either, as README says."""
    for norm_layer in (normzoo.factory("group_norm"), nn.BatchNorm2d):
        with pytest.raises(TypeError, match="multiple values for keyword argument 'norm_layer'"):
            build(functools.partial(timm.create_model, "mobilenetv3_small_050"), norm_layer)


@pytest.mark.parametrize("name", ["batch_norm", "group_norm", "instance_norm"])
def test_timm_densenet121(name):
    """Its blocks call for norm and activation without a keyword that would say so."""
    norm_layer = normzoo.factory(name, **KEYWORDS.get(name, {}))
    model = build(functools.partial(timm.create_model, "densenet121"), norm_layer)
    assert len(ours_in(model, norm_layer)) == 121 == activations(model)["ReLU"]
    train_one_step(model)


@pytest.mark.parametrize("name", ["layer_norm_channel", "batch_norm", "group_norm"])
def test_timm_convnext_channels_first(name):
    """Other norms than its own ConvNeXt takes with `conv_mlp=True`, which keeps all inputs (N, C, H, W)."""
    norm_layer = normzoo.factory(name, **KEYWORDS.get(name, {}))
    model = build(functools.partial(timm.create_model, "convnext_atto", conv_mlp=True), norm_layer)
    assert len(ours_in(model, norm_layer)) == len(bn_names("convnext_atto", nn.LayerNorm))
    train_one_step(model)


@pytest.mark.parametrize("name", TOKEN_NORMS)
def test_timm_vision_transformer_on_tokens(name):
    norm_layer = normzoo.factory(name, channel_dim=-1)
    vit = functools.partial(
        timm.models.VisionTransformer, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2
    )
    model = build(vit, norm_layer)
    assert len(ours_in(model, norm_layer)) == 5
    train_one_step(model, size=32)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_swin_transformer_on_tokens(library):
    if library == "timm":
        small = {"img_size": SIZE, "patch_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}
        swin = functools.partial(timm.models.SwinTransformer, window_size=4, **small)
    else:
        swin = functools.partial(torchvision.models.SwinTransformer, [4, 4], 24, [1, 1], [2, 2], [4, 4])
    norm_layer = normzoo.factory("rms_norm", channel_dim=-1)
    model = build(swin, norm_layer)
    assert len(ours_in(model, norm_layer)) == 7
    train_one_step(model)


def test_weights_of_a_timm_model_load_into_it_with_our_norm():
    """Pretrained weights keep their names, so `pretrained=True` works with a norm of the same parameters."""
    stock = timm.create_model("mobilenetv2_035", num_classes=CLASSES).double().eval()
    with torch.no_grad():
        for module in stock.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.weight.uniform_(0.5, 2)
    for name in ("batch_norm", "batch_norm_scratch"):
        ours = timm.create_model("mobilenetv2_035", num_classes=CLASSES, norm_layer=normzoo.factory(name))
        ours.double().eval().load_state_dict(stock.state_dict())
        ours.load_state_dict(ours.state_dict())
        x = torch.randn(2, 3, SIZE, SIZE).double()
        torch.testing.assert_close(ours(x), stock(x))


def test_a_factory_made_before_or_in_another_process_still_carries_the_activation():
    """Each process has to register the factory with timm; taking it apart there does."""
    from timm.layers import create_norm_act

    norm_layer = pickle.loads(pickle.dumps(normzoo.factory("group_norm")))
    create_norm_act._NORM_ACT_REQUIRES_ARG = {
        entry for entry in create_norm_act._NORM_ACT_REQUIRES_ARG if entry.__module__.startswith("timm")
    }
    layer = create_norm_act.get_norm_act_layer(norm_layer, nn.SiLU)(8, inplace=True)
    assert [type(part) for part in layer] == [type(normzoo.create("group_norm", 8)), nn.SiLU]


def test_norm_and_activation_in_one():
    factory = normzoo.factory("batch_norm")
    layer = factory(8, act_layer="leaky_relu", act_kwargs={"negative_slope": 0.5}, drop_layer=nn.Dropout)
    assert [name for name, _ in layer.named_children()] == ["norm", "drop", "act"]
    assert layer.act.negative_slope == 0.5
    x = torch.randn(4, 8, 2, 2)
    torch.testing.assert_close(layer.eval()(x), nn.functional.leaky_relu(layer.norm(x), 0.5))
    assert not isinstance(factory(8, act_layer=nn.ReLU, apply_act=False), NormAct)
    assert not isinstance(factory(8), NormAct)
    with pytest.raises(TypeError, match="num_group"):
        functools.partial(normzoo.factory("group_norm"), num_group=2)(8)


def test_a_norm_that_includes_its_activation_is_given_none():
    class Active(nn.Identity):
        includes_activation = True

        def __init__(self, num_features: int) -> None:
            super().__init__()

    from normzoo.norm_act import NormFactory, build_norm

    assert type(NormFactory(build_norm, build=Active)(8, act_layer=nn.ReLU, device=None, dtype=None)) is Active


@functools.cache
def bn_names(model: str, norm: type[nn.Module] = nn.BatchNorm2d) -> tuple[str, ...]:
    return tuple(name for name, module in timm.create_model(model).named_modules() if isinstance(module, norm))


def activations(model: nn.Module) -> dict[str, int]:
    names = [type(m).__name__ for m in model.modules() if "ReLU" in type(m).__name__]
    return {name: names.count(name) for name in sorted(set(names))}
