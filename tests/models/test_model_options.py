"""Activation, init and dropout of the plain models: what each does, and that leaving them out changes nothing."""

import pytest
import torch
from torch import nn

import normzoo
from normzoo import UserError
from normzoo.models.blocks import Placement
from normzoo.models.lenet5 import LeNet5
from normzoo.models.mlp import MLP
from normzoo.models.options import ACTIVATIONS
from normzoo.models.plain_cnn import PlainCNN

MODELS = {
    "plain_cnn": (PlainCNN, {}, 8),
    "lenet5": (LeNet5, {}, 28),
    "mlp": (MLP, {"image_size": 8}, 8),
}
OWN = {"plain_cnn": "he_normal", "lenet5": "xavier_uniform"}


def build(name, norm="identity", **options):
    model, fixed, _ = MODELS[name]
    torch.manual_seed(0)
    return model(normzoo.factory(norm), Placement(), **{"in_channels": 1, "num_classes": 10, **fixed, **options})


def images(name):
    side = MODELS[name][2]
    return torch.randn(4, 1, side, side)


def layers(model):
    return [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", MODELS)
def test_each_activation_is_the_only_one(name, activation):
    model = build(name, activation=activation)
    every = tuple(kind for kind in ACTIVATIONS.values() if kind is not None)
    found = {type(module) for module in model.modules() if isinstance(module, every)}
    assert found == {ACTIVATIONS[activation]} - {None}
    assert model(images(name)).shape == (4, 10)


@pytest.mark.parametrize("name", MODELS)
def test_without_an_activation_the_model_is_affine(name):
    model = build(name, activation="none").double()
    a, b = images(name).double(), images(name).double()
    torch.testing.assert_close(model(0.3 * a + 0.7 * b), 0.3 * model(a) + 0.7 * model(b))


@pytest.mark.parametrize("name", OWN)
def test_default_is_the_models_own_init(name):
    torch.testing.assert_close(build(name).state_dict(), build(name, init=OWN[name]).state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("he_normal", lambda fan_in, fan_out: 2 / fan_in),
        ("xavier_uniform", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
        ("xavier_normal", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    ],
)
def test_the_variance_of_each_init(name, init, variance):
    model = build(name, init=init)
    widest = max(layers(model), key=lambda layer: layer.weight.numel())
    fans = nn.init._calculate_fan_in_and_fan_out(widest.weight)
    assert widest.weight.var().item() == pytest.approx(variance(*fans), rel=0.05)
    bound = (3 * variance(*fans)) ** 0.5
    assert (widest.weight.abs().max().item() <= bound) == (init == "xavier_uniform")
    assert all(not layer.bias.any() for layer in layers(model))


@pytest.mark.parametrize("name", MODELS)
def test_the_scale_multiplies_every_weight_and_no_norm(name):
    one, ten = build(name, "batch_norm"), build(name, "batch_norm", init_scale=10.0)
    for before, after in zip(layers(one), layers(ten), strict=True):
        torch.testing.assert_close(after.weight, 10 * before.weight)
    for (_, before), (_, after) in zip(normzoo.norm_layers(one), normzoo.norm_layers(ten), strict=True):
        torch.testing.assert_close(after.state_dict(), before.state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("plain_cnn", "ca ca ca ca d l"), ("lenet5", "cap cap ca d la d l"), ("mlp", "lad lad lad l")],
)
def test_where_dropout_is(name, expected, spell):
    identity = build(name, dropout=0.5)
    assert spell(identity, images(name)).replace("n", "") == expected.replace(" ", "")
    assert "d" not in spell(build(name), images(name))


@pytest.mark.parametrize("name", MODELS)
def test_dropout_drops_in_training_alone(name):
    model, x = build(name, dropout=0.5), images(name)
    assert not torch.equal(model(x), model(x))
    torch.testing.assert_close(model.eval()(x), build(name).eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "swish"}, "activation='swish' is unknown; choose one of relu, leaky_relu, gelu, tanh, sigmoid"),
        ({"activation": None}, "activation=None is unknown"),
        ({"init": "zeros"}, "init='zeros' is unknown; choose one of default, he_normal, xavier_uniform, xavier_normal"),
        ({"init_scale": 0}, "init_scale=0 must be a positive number"),
        ({"init_scale": float("nan")}, "init_scale=nan must be"),
        ({"init_scale": "big"}, "init_scale='big' must be"),
        ({"dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
        ({"dropout": -0.1}, "dropout=-0.1 must be"),
        ({"dropout": True}, "dropout=True must be"),
    ],
)
def test_bad_options_name_the_model(name, options, message):
    with pytest.raises(UserError, match=f"{name}: {message}"):
        build(name, **options)
