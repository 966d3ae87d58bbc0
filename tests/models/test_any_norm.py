"""Every model with every registered norm: forward, a training step, the same from the same seed, meta, compile."""

import copy
import pickle

import pytest
import torch
from torch import nn

import normzoo
from normzoo.models.blocks import Placement
from normzoo.models.inception import Inception
from normzoo.models.lenet5 import LeNet5
from normzoo.models.mlp import MLP
from normzoo.models.plain_cnn import PlainCNN
from normzoo.models.recurrent import Recurrent
from normzoo.models.resnet import ResNet
from normzoo.models.vgg import VGG
from normzoo.models.vit import ViT

pytestmark = [
    pytest.mark.untraced,  # the tests of each model and of each norm lead through these lines
    # It says so where it has no weight before it to follow, as behind a sum.
    pytest.mark.filterwarnings("ignore:CrossIterationBatchNorm.*finds no weight"),
]
LAYERS = normzoo.list_norms(kind="layer")
# Four samples without positions are enough to whiten no more than three channels at a time.
OPTIONS = {norm: {"channels_per_group": 2} for norm in ("decorrelated_batch_norm", "iter_norm")}
# Where a norm needs positions, it is left out of the stages that have a single one.
ON_MAPS = {"lenet5": (0, 1), "mlp": (), "lstm": (), "rnn": ()}
MODELS = {
    "plain_cnn": (PlainCNN, {}, 16),
    "lenet5": (LeNet5, {}, 32),
    "resnet8": (ResNet, {"depth": 8, "width": 4}, 8),
    "resnet8_b": (ResNet, {"depth": 8, "width": 4, "shortcut": "B"}, 8),
    "resnet18": (ResNet, {"depth": 18}, 64),
    "mlp": (MLP, {"image_size": 8, "hidden": (16, 16)}, 8),
    "inception": (Inception, {"stem": "small", "modules": ("3a", "3c"), "width": 0.125}, 8),
    "lstm": (Recurrent, {"image_size": 4, "hidden": 16}, 4),
    "rnn": (Recurrent, {"image_size": 4, "hidden": 8, "cell": "rnn"}, 4),
    "vgg": (VGG, {"convs": (2, 1), "widths": (4, 8)}, 8),
    "vit": (ViT, {"image_size": 8, "dim": 8, "depth": 1, "heads": 2}, 8),
}
SMALL = [name for name in MODELS if name != "resnet18"]
BOTH_KINDS = ("plain_cnn", "lstm")  # with each norm in the default run
PRE_ACT = ("lstm", "rnn", "vit")  # which have pre_act alone
ORDERED = [(name, order) for name in MODELS for order in ("pre_act", "post_act")[: 1 if name in PRE_ACT else 2]]


def with_each_norm(parameters):
    """Mark all but the models of both kinds as slow."""
    for one in parameters:
        values = one if isinstance(one, tuple) else (one,)
        yield pytest.param(*values, marks=[] if values[0] in BOTH_KINDS else [pytest.mark.slow])


def build(name, norm, order="pre_act", *, seed=0):
    model, options, _ = MODELS[name]
    needs_positions = 2 not in normzoo.info(norm).ranks
    where = ON_MAPS.get(name, "all") if needs_positions else "all"
    torch.manual_seed(seed)
    norm_layer = normzoo.factory(norm, **OPTIONS.get(norm, {}))
    return model(norm_layer, Placement(order, where), in_channels=2, num_classes=3, **options)


def images(name, *, n=4):
    side = MODELS[name][2]
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, side, side, generator=generator), torch.arange(n) % 3


@pytest.mark.parametrize("norm", LAYERS)
@pytest.mark.parametrize(("name", "order"), with_each_norm(pair for pair in ORDERED if pair[0] in SMALL))
def test_a_training_step_lowers_the_loss(name, norm, order):
    # A step along the gradient as small as float64 lets it be: where few channels are all cut to zero, the norms of a
    # single position have gradients of 1 / sqrt(eps).
    model, (x, y) = build(name, norm, order).double(), images(name)
    x = x.double()
    state = copy.deepcopy(dict(model.named_buffers()))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
    before = nn.functional.cross_entropy(model(x), y)
    before.backward()
    missing = [key for key, p in model.named_parameters() if p.grad is None]
    assert not missing
    optimizer.step()
    with torch.no_grad():
        for key, buffer in model.named_buffers():  # which the outputs of some norms depend on in training
            buffer.copy_(state[key])
        assert nn.functional.cross_entropy(model(x), y) < before
    assert model.eval()(x).shape == (4, 3)


@pytest.mark.parametrize("norm", [norm for norm in LAYERS if "affine" in normzoo.info(norm).arguments])
def test_norms_without_parameters_train_in_torchvisions_blocks(norm):
    norm_layer = normzoo.factory(norm, affine=False, **OPTIONS.get(norm, {}))
    model = ResNet(norm_layer, in_channels=2, num_classes=3, depth=18)
    model(images("resnet18")[0]).sum().backward()


@pytest.mark.parametrize("norm", ["batch_norm", "group_norm", "identity"])
@pytest.mark.parametrize("name", SMALL)
def test_a_few_steps_learn_a_tiny_batch(name, norm):
    model, (x, y) = build(name, norm), images(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("norm", LAYERS)
@pytest.mark.parametrize(("name", "order"), with_each_norm(ORDERED))
def test_forward_on_the_meta_device(name, norm, order):
    with torch.device("meta"):
        model = build(name, norm, order)
        x = torch.empty(images(name)[0].shape)
    assert model(x).shape == (4, 3)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_model_and_output(name):
    x, _ = images(name)
    one, two, other = (build(name, "batch_norm", seed=seed) for seed in (0, 0, 1))
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(one(x), two(x), rtol=0, atol=0)
    assert not torch.equal(one(x), other(x))


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_weights_with_any_norm_and_placement(name):
    def weights(norm, order):
        model = build(name, norm, order)
        return [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]

    first = weights("batch_norm", "pre_act")
    for norm, order in [("batch_norm", "post_act"), ("group_norm", "pre_act"), ("identity", "pre_act")]:
        if (name, order) not in ORDERED:
            continue
        torch.testing.assert_close(weights(norm, order), first, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "order"), ORDERED)
def test_each_norm_is_found_by_name(name, order):
    pre = {"plain_cnn": 4, "lenet5": 4, "resnet8": 7, "resnet8_b": 9, "resnet18": 20, "mlp": 2, "vgg": 3}
    pre["inception"] = 1 + 7 + 5
    # Four steps; the first has no state to normalize, and a plain RNN no second kind of state.
    pre |= {"lstm": 4 + 3 + 4, "rnn": 4 + 3, "vit": 2 + 1}
    # In post_act the norms of a branch and of its projection are one.
    post = {**pre, "resnet8_b": 7, "resnet18": 17}
    found = len(list(normzoo.norm_layers(build(name, "batch_norm", order))))
    assert found == (pre if order == "pre_act" else post)[name]


@pytest.mark.parametrize("norm", LAYERS)
@pytest.mark.parametrize("name", with_each_norm(SMALL))
def test_channels_last_gives_the_same_output(name, norm):
    model, (x, _) = build(name, norm).double(), images(name)
    x = x.double()
    expected = copy.deepcopy(model)(x)
    y = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("name", ["plain_cnn", "resnet8", "vgg", "inception"])
def test_maps_stay_channels_last(name):
    model, (x, _) = build(name, "batch_norm").to(memory_format=torch.channels_last), images(name)
    kept = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(
                lambda _m, _x, y: kept.append(y.shape[-1] == 1 or y.is_contiguous(memory_format=torch.channels_last))
            )
    model(x.to(memory_format=torch.channels_last))
    assert kept
    assert all(kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("plain_cnn", "pre_act"),
        ("lenet5", "pre_act"),
        ("resnet8", "post_act"),
        ("resnet18", "pre_act"),
        ("mlp", "pre_act"),
        ("vgg", "post_act"),
        ("inception", "pre_act"),
        ("lstm", "pre_act"),
        ("rnn", "pre_act"),
        ("vit", "pre_act"),
    ],
)
def test_compiles_as_one_graph(name, order):
    model, (x, y) = build(name, "batch_norm", order), images(name)
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), twin(x))
    nn.functional.cross_entropy(compiled(x), y).backward()


@pytest.mark.parametrize(("name", "order"), ORDERED)
def test_copies_pickles_and_loads(name, order):
    x, _ = images(name)
    model = build(name, "group_norm", order)
    expected = model(x)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), expected)
    other = build(name, "group_norm", order, seed=1)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), expected)
