"""Folding changes no output, goes by the order of calls, and keeps what it cannot fold, with a reason."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normzoo
from normzoo.surgery.fold import fold
from normzoo.surgery.freeze import freeze

timm_layers = pytest.importorskip("timm.layers")


def trained(model: nn.Module) -> nn.Module:
    """Give every tensor values of its own, of either sign where they may have one."""
    generator = torch.Generator().manual_seed(1)
    model = model.double().eval()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(drawn + 0.5 if "running" in name else 2 * drawn - 1)
    return model


def folded(model: nn.Module, x: torch.Tensor, count: int = 1) -> nn.Module:
    """Fold so many norms, with outputs equal on another batch, and back; return the folded model."""
    model = trained(model)
    other = torch.randn(x.shape, dtype=x.dtype)
    before, expected, state = str(model), model(other), copy.deepcopy(model.state_dict())
    report = fold(model, x)
    assert report.counts().get("folded", 0) == count, str(report)
    torch.testing.assert_close(model(other), expected, rtol=1e-10, atol=1e-10)
    twin = copy.deepcopy(model)
    assert report.undo() is model
    assert str(model) == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    return twin


CONVOLUTIONS = {
    "Linear": (lambda **o: nn.Linear(6, 4, **o), (5, 6), nn.BatchNorm1d),
    "Conv1d": (lambda **o: nn.Conv1d(6, 4, 3, **o), (5, 6, 7), nn.BatchNorm1d),
    "Conv2d": (lambda **o: nn.Conv2d(6, 4, 3, padding=1, stride=2, **o), (5, 6, 7, 7), nn.BatchNorm2d),
    "Conv2d grouped": (lambda **o: nn.Conv2d(6, 4, 3, groups=2, padding="same", **o), (5, 6, 7, 7), nn.BatchNorm2d),
    "Conv2d depthwise": (lambda **o: nn.Conv2d(6, 6, 3, groups=6, **o), (5, 6, 7, 7), lambda c: nn.BatchNorm2d(6)),
    "Conv3d": (lambda **o: nn.Conv3d(6, 4, 2, **o), (2, 6, 3, 3, 3), nn.BatchNorm3d),
    "ConvTranspose1d": (lambda **o: nn.ConvTranspose1d(6, 4, 3, **o), (5, 6, 7), nn.BatchNorm1d),
    "ConvTranspose2d grouped": (
        lambda **o: nn.ConvTranspose2d(6, 4, 3, groups=2, stride=2, **o),
        (5, 6, 4, 4),
        nn.BatchNorm2d,
    ),
    "ConvTranspose3d": (lambda **o: nn.ConvTranspose3d(6, 4, 2, **o), (2, 6, 3, 3, 3), nn.BatchNorm3d),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_norm_behind_it_is_folded(name, bias):
    build, shape, norm = CONVOLUTIONS[name]
    twin = folded(nn.Sequential(build(bias=bias), norm(4)), torch.randn(shape, dtype=torch.float64))
    assert isinstance(twin[1], nn.Identity)
    assert twin[0].bias is not None


BEFORE = {
    "Linear": (lambda: nn.Linear(6, 4), (5, 6), nn.BatchNorm1d),
    "Conv2d": (lambda: nn.Conv2d(6, 4, 3, bias=False), (5, 6, 7, 7), nn.BatchNorm2d),
    "Conv2d grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2), (5, 6, 7, 7), nn.BatchNorm2d),
    "Conv2d reflecting": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), (5, 6, 7, 7), nn.BatchNorm2d),
    "Conv1d": (lambda: nn.Conv1d(6, 4, 3), (5, 6, 7), nn.BatchNorm1d),
}


@pytest.mark.parametrize("name", BEFORE)
def test_a_norm_before_it_is_folded(name):
    build, shape, norm = BEFORE[name]
    folded(nn.Sequential(norm(6), build()), torch.randn(shape, dtype=torch.float64))


NORMS = {
    **{
        name: lambda name=name: normzoo.create(name, 4)
        for name in normzoo.list_norms(kind="layer", train_eval_differ=True)
        if not any(word in name for word in ("evo", "online", "instance", "switch", "ibn", "decorrelated", "iter"))
    },
    "frozen_batch_norm": lambda: normzoo.create("frozen_batch_norm", 4),
    "affine=False": lambda: nn.BatchNorm2d(4, affine=False),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "norm and act": lambda: normzoo.factory("batch_norm")(4, act_layer=nn.SiLU),
    "timm BatchNormAct2d": lambda: timm_layers.BatchNormAct2d(4, act_layer=nn.SiLU),
    "timm FrozenBatchNormAct2d": lambda: timm_layers.FrozenBatchNormAct2d(4),
}


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_that_scales_and_shifts_is_folded(name):
    twin = folded(nn.Sequential(nn.Conv2d(3, 4, 3), NORMS[name]()), torch.randn(2, 3, 5, 5, dtype=torch.float64))
    assert ("SiLU" in str(twin)) == ("act" in name or "BatchNormAct" in name) or "Frozen" in name


class Model(nn.Module):
    """Layers, called as `order` says and defined in another order."""

    def __init__(self, order, **layers):
        super().__init__()
        self.order = order
        for name in sorted(layers):
            setattr(self, name, layers[name])

    def forward(self, x):
        return self.order(self, x)


def conv(channels=3):
    return nn.Conv2d(channels, 4, 3)


def test_the_order_of_calls_counts_and_not_that_of_definition():
    swapped = Model(lambda m, x: m.a(m.d(m.b(m.c(x)))), a=nn.BatchNorm2d(4), b=nn.BatchNorm2d(4), c=conv(), d=conv(4))
    folded(swapped, torch.randn(2, 3, 9, 9, dtype=torch.float64), 2)
    branching = Model(lambda m, x: m.a(m.c(x)) if x.sum() > -1e9 else x, a=nn.BatchNorm2d(4), c=conv())
    folded(branching, torch.randn(2, 3, 9, 9, dtype=torch.float64))


def test_flattened_tokens_are_folded():
    model = Model(
        lambda m, x: m.norm(m.proj(x).flatten(0, 1)).unflatten(0, x.shape[:2]) + 1,
        norm=nn.BatchNorm1d(4),
        proj=nn.Linear(3, 4),
    )
    folded(model, torch.randn(2, 5, 3, dtype=torch.float64))
    model = Model(lambda m, x: m.norm(m.proj(x).transpose(1, 2)), norm=nn.BatchNorm1d(4), proj=nn.Linear(3, 4))
    folded(model, torch.randn(2, 5, 3, dtype=torch.float64))


def hooked(layer):
    layer.register_forward_hook(lambda module, args, y: None)
    return layer


def shared_conv():
    one, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    other.weight = one.weight
    return Model(lambda m, x: m.n(m.c(x)) + m.d(x), c=one, d=other, n=nn.BatchNorm2d(4))


KEPT = {
    "called 2 times": lambda: Model(lambda m, x: m.n(m.c(x)) + m.n(m.d(x)), c=conv(), d=conv(), n=nn.BatchNorm2d(4)),
    "Conv2d is called 2 times": lambda: Model(
        lambda m, x: m.n(m.c(x)) + m.o(m.c(2 * x)), c=conv(), n=nn.BatchNorm2d(4), o=nn.BatchNorm2d(4)
    ),
    "ReLU uses the output of Conv2d too": lambda: Model(
        lambda m, x: (lambda y: m.n(y) + m.r(y))(m.c(x)), c=conv(), n=nn.BatchNorm2d(4), r=nn.ReLU()
    ),
    "Model uses the output of Conv2d too": lambda: Model(
        lambda m, x: (lambda y: m.n(y) + y)(m.c(x)), c=conv(), n=nn.BatchNorm2d(4)
    ),
    "the model's output uses the output of Conv2d too": lambda: Model(
        lambda m, x: (lambda y: {"a": y, "b": m.n(y)})(m.c(x)), c=conv(), n=nn.BatchNorm2d(4)
    ),
    "not called on the sample": lambda: Model(lambda m, x: m.c(x), c=conv(), n=nn.BatchNorm2d(4)),
    "no convolution or linear layer": lambda: nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(4)),
    "BatchNorm2d has forward hooks": lambda: nn.Sequential(conv(), hooked(nn.BatchNorm2d(4))),
    "Conv2d has forward hooks": lambda: nn.Sequential(hooked(conv()), nn.BatchNorm2d(4)),
    "shares its weight": shared_conv,
    "computes its weight": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(conv()), nn.BatchNorm2d(4)),
    "not a scale and a shift": lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False)),
    "it pads with zeros": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
    "transposed": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 3)),
    "not linear in it": lambda: nn.Sequential(Standardized(3, 4, 3), nn.BatchNorm2d(4)),
    "its channels are not those": lambda: Model(
        lambda m, x: m.n(m.c(x[..., 0])), c=nn.Linear(9, 4), n=nn.BatchNorm1d(3)
    ),
}


class Standardized(nn.Conv2d):
    """A convolution whose output does not follow the scale of its weight."""

    def forward(self, x):
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


@pytest.mark.parametrize("reason", KEPT)
def test_what_cannot_be_folded_is_kept_with_a_reason(reason):
    model = KEPT[reason]()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    model = trained(model)
    expected, state = model(x), copy.deepcopy(model.state_dict())
    report = fold(model, x)
    assert reason in report[0].reason, str(report)
    assert report.counts() == {"kept": len(report)}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(model(x), expected)


def test_a_norm_in_training_mode_is_kept_and_a_frozen_one_is_folded():
    model = trained(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))).train()
    freeze(model[3])
    mean = model[1].running_mean.clone()
    report = fold(model, torch.randn(2, 3, 9, 9, dtype=torch.float64))
    assert [row.action for row in report] == ["kept", "folded"]
    assert "call model.eval() first" in report[0].reason
    assert torch.equal(model[1].running_mean, mean)
    assert model[1].training


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet"])
def test_torchvision_models_are_folded_whole(name):
    models = pytest.importorskip("torchvision.models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(models, name)(num_classes=3)
    torch.manual_seed(0)
    model.double()(torch.randn(4, 3, 64, 64, dtype=torch.float64))
    model.eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = model(x)
    report = fold(model, x)
    assert {row.reason for row in report} <= {"", "BatchNorm2d is not called on the sample"}
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


def test_half_precision_and_compiled_models():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    x = torch.randn(6, 3)
    compiled = torch.compile(model, backend="eager")
    expected = compiled(x)
    assert fold(compiled, x).counts() == {"folded": 1}
    torch.testing.assert_close(compiled(x), expected)
    half = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).bfloat16().eval()
    expected = half(x.bfloat16())
    assert fold(half, x.bfloat16()).counts() == {"folded": 1}
    torch.testing.assert_close(half(x.bfloat16()), expected, rtol=0.05, atol=0.05)


def test_bad_requests_leave_the_model():
    with pytest.raises(normzoo.UserError, match="no layer of Linear evaluates with running statistics"):
        fold(nn.Linear(3, 4), torch.randn(2, 3))
    with pytest.raises(normzoo.UserError, match="on the meta device"):
        fold(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to("meta"), torch.randn(2, 3))
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    model[2].eval()
    with pytest.raises(normzoo.UserError, match=r"cannot take the sample.* shapes cannot be multiplied"):
        fold(model, torch.randn(2, 5))
    assert [module.training for module in model] == [True, True, False]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
