"""Frozen norms stay frozen, say so if they are dead, and come back as they were."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn

import normzoo
from normzoo.surgery.freeze import freeze, no_weight_decay_groups, train_only_norms, unfreeze
from normzoo.surgery.running import statistics_frozen

timm_layers = pytest.importorskip("timm.layers")

LAYERS = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (6, 4)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (6, 4, 5, 5)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(4), (6, 4, 3, 3, 3)),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(4), (6, 4, 5, 5)),
    "timm BatchNormAct2d": (lambda: timm_layers.BatchNormAct2d(4, drop_layer=lambda: nn.Dropout(0.5)), (6, 4, 5, 5)),
    "timm EvoNorm2dB0": (lambda: timm_layers.EvoNorm2dB0(4), (6, 4, 5, 5)),
    **{
        name: (lambda name=name: normzoo.create(name, 4), (6, 4, 5, 5))
        for name in normzoo.list_norms(kind="layer", train_eval_differ=True)
    },
    "norm and act": (lambda: normzoo.factory("batch_norm")(4, act_layer=nn.ReLU), (6, 4, 5, 5)),
}


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x


def moved(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Take two steps of SGD with momentum and weight decay, in training mode."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=0.1)
    for step in range(2):
        model(torch.randn(shape) * 3 + step).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(params=LAYERS)
def case(request):
    build, shape = LAYERS[request.param]
    torch.manual_seed(0)
    model = nn.Sequential(Scale(), build())
    moved(model, shape)
    return model, shape


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {key.rpartition(".")[2] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def test_training_moves_nothing_of_a_frozen_norm(case):
    model, shape = case
    assert freeze(model) is model
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(shape)
    model.eval()
    expected = model(x)
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            assert layer.training, "dropout behind a frozen norm is not frozen"
            layer.p = 0.0
    torch.testing.assert_close(model(x), expected)
    moved(model, shape)
    assert changed(model, before) == {"scale"}


def test_statistics_or_parameters_alone_are_frozen(case):
    model, shape = case
    before = copy.deepcopy(model.state_dict())
    freeze(model, affine=False)
    moved(model, shape)
    assert not any("running" in key or "num_batches" in key for key in changed(model, before))
    unfreeze(model)
    freeze(model, statistics=False)
    before = copy.deepcopy(model.state_dict())
    model.train()(torch.randn(shape))
    now = changed(model, before)
    assert any("running" in key for key in now)
    assert not now & {"weight", "bias"}


def test_unfreezing_is_exact(case):
    model, shape = case
    last = list(model[1].parameters())[-1] if list(model[1].parameters()) else None
    if last is not None:
        last.requires_grad_(False)
    twin = copy.deepcopy(model)
    freeze(model, affine=False)
    freeze(model)
    freeze(model)
    unfreeze(model.eval())
    assert not any(module.training for module in model.modules())
    assert not any(statistics_frozen(module) for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in twin.parameters()]
    assert [getattr(m, "momentum", None) for m in model.modules()] == [
        getattr(m, "momentum", None) for m in twin.modules()
    ]
    for each in (model, twin):
        torch.manual_seed(1)
        moved(each, shape)
    assert not changed(model, twin.state_dict())


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_a_copy_is_frozen_apart_from_the_original(copied):
    model = nn.Sequential(nn.BatchNorm1d(2))
    moved(model, (5, 2))
    freeze(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin = copy.deepcopy(model) if copied == "deepcopy" else torch.load(file, weights_only=False)
    assert not twin.train()[0].training
    unfreeze(twin)
    assert twin[0].training
    assert statistics_frozen(model[0])


def test_dead_layers_are_told():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    moved(model, (5, 2))
    nn.init.zeros_(model[1].weight)
    with pytest.warns(UserWarning, match="layer '1' has a weight of zeros"):
        freeze(model)
    unfreeze(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        freeze(model, affine=False)
    with pytest.warns(UserWarning, match="layer '0' has no statistics yet"):
        freeze(nn.Sequential(nn.BatchNorm1d(2)))


def test_a_batch_norm_without_running_statistics_is_told():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    moved(model, (5, 2))
    with pytest.warns(UserWarning, match="layer '1' keeps no running statistics"):
        freeze(model)
    assert model[1].weight.requires_grad


def test_a_predicate_chooses_and_shared_layers_count_once():
    shared = nn.BatchNorm1d(2)
    model = nn.Sequential(nn.BatchNorm1d(2), shared, shared)
    moved(model, (5, 2))
    freeze(model, where=lambda name, layer: name != "0")
    model.train()
    assert [layer.training for layer in model] == [True, False, False]
    unfreeze(model)
    assert all(p.requires_grad for p in model.parameters())


def test_bad_requests_change_nothing():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.LayerNorm(2))
    with pytest.raises(normzoo.UserError, match="nothing to freeze"):
        freeze(model, statistics=False, affine=False)
    with pytest.raises(ValueError, match="no norm of Sequential has running statistics where the predicate is true"):
        freeze(model, where=lambda name, layer: False)
    with pytest.raises(ValueError, match="no norm of LayerNorm has running statistics"):
        freeze(model[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.BatchNorm1d(2)))
    with pytest.raises(ValueError, match="'0' is scripted"):
        freeze(scripted)
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_frozen_models_compile_and_export():
    model = nn.Sequential(nn.BatchNorm1d(2))
    moved(model, (5, 2))
    freeze(model).train()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 2)
    expected = model(x)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.export.export(model.eval(), (x,)).module()(x), expected)
    assert not changed(model, before)


def test_only_norms_are_trained_whatever_their_class():
    class Scaled(nn.Module):  # RMS by another name
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.rand(6) + 0.5)

        def forward(self, x):
            return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.gain

    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), Scaled(), normzoo.create("split_batch_norm", 6), nn.LayerNorm(6)
    )
    trained = train_only_norms(model)
    expected = [p for layer in model[1:] for p in layer.parameters()]
    assert list(map(id, trained)) == list(map(id, expected))
    assert [p.requires_grad for p in model.parameters()] == [False] * 2 + [True] * len(expected)
    with pytest.raises(ValueError, match="no norm of Linear has parameters"):
        train_only_norms(nn.Linear(2, 2))


def test_weight_decay_leaves_norms_and_biases_alone():
    shared = nn.LayerNorm(4)
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared, nn.BatchNorm1d(4))
    model[2].weight.requires_grad_(False)
    decayed, kept = no_weight_decay_groups(model, 0.1)
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    own = [model[0].bias, shared.weight, shared.bias, model[2].bias, model[4].weight, model[4].bias]
    assert list(map(id, kept["params"])) == list(map(id, own))
    torch.optim.AdamW([decayed, kept], 0.1)
