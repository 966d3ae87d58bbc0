"""Recomputed statistics against those of all values at once, and all that recalibration leaves alone."""

import collections
import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import normzoo
from normzoo.surgery.batches import to_device
from normzoo.surgery.recalibrate import recalibrate
from normzoo.surgery.report import SurgeryError

timm_layers = pytest.importorskip("timm.layers")

SIZES = (6, 5, 4)
VARIANCE = {
    "nn.BatchNorm2d": nn.BatchNorm2d,
    "nn.SyncBatchNorm": nn.SyncBatchNorm,
    "timm BatchNormAct2d": timm_layers.BatchNormAct2d,
    "timm EvoNorm2dB0": timm_layers.EvoNorm2dB0,
    "ghost_batch_norm of 2": lambda c: normzoo.create("ghost_batch_norm", c, group_size=2),
    "momentum None": lambda c: nn.BatchNorm2d(c, momentum=None),
    "affine False": lambda c: nn.BatchNorm2d(c, affine=False),
    **{
        name: lambda c, name=name: normzoo.create(name, c)
        for name in normzoo.list_norms(kind="layer", batch_dependent=True)
        if "running_var" in normzoo.info(name).state
    },
}


def batches():
    """Batches of unequal sizes whose means differ."""
    generator = torch.Generator().manual_seed(3)
    return [
        2 * torch.randn(size, 4, 3, 3, generator=generator, dtype=torch.float64) + 3 * step
        for step, size in enumerate(SIZES)
    ]


@pytest.mark.parametrize("name", VARIANCE)
def test_running_statistics_are_those_of_all_values_at_once(name):
    layer = VARIANCE[name](4).double()
    layer.running_var.fill_(100.0)
    momentum = layer.momentum
    model = nn.Sequential(layer, nn.Dropout(0.5))
    assert recalibrate(model, batches()) is model
    everything = torch.cat(batches())
    if name == "ibn":
        everything = everything[:, 2:]
    if name == "split_batch_norm":
        first, second = (torch.cat(part) for part in zip(*(x.tensor_split(2) for x in batches()), strict=True))
        torch.testing.assert_close(layer.aux_bn[0].running_var, second.var((0, 2, 3)))
        everything = first
    if hasattr(layer, "running_mean"):
        torch.testing.assert_close(layer.running_mean, everything.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, everything.var((0, 2, 3)))
    assert layer.momentum == momentum
    assert all(module.training for module in model.modules() if module not in layer.children())


@pytest.mark.parametrize(
    ("name", "buffer"), [("power_norm", "running_power"), ("moving_average_batch_norm", "running_moment")]
)
def test_second_moments_are_those_of_all_values(name, buffer):
    layer = normzoo.create(name, 4).double()
    recalibrate(layer, batches())
    torch.testing.assert_close(layer.get_buffer(buffer), torch.cat(batches()).square().mean((0, 2, 3)))
    assert not layer.get_buffer(buffer.replace("power", "product").replace("running_moment", "window_product")).any()


def test_the_mean_over_instances_is_weighted_by_the_size_of_a_batch():
    for layer in (
        nn.InstanceNorm2d(4, track_running_stats=True),
        normzoo.create("instance_norm", 4, track_running_stats=True),
    ):
        recalibrate(layer.double(), batches())
        everything = torch.cat(batches())
        torch.testing.assert_close(layer.running_mean, everything.mean((0, 2, 3)))
        torch.testing.assert_close(layer.running_var, everything.var((2, 3)).mean(0))


@pytest.mark.parametrize("name", ["l1_batch_norm", "decorrelated_batch_norm", "iter_norm"])
def test_other_statistics_are_averages_weighted_by_the_size_of_a_batch(name):
    layer, other = normzoo.create(name, 4).double(), "running_std" if name == "l1_batch_norm" else "running_whitening"
    each = []
    for x in batches():
        twin = copy.deepcopy(layer)
        twin.momentum = 1.0
        twin(x)
        each.append(twin.get_buffer(other))
    recalibrate(layer, batches())
    expected = sum(size * value for size, value in zip(SIZES, each, strict=True)) / sum(SIZES)
    torch.testing.assert_close(layer.get_buffer(other), expected)
    torch.testing.assert_close(layer.running_mean, torch.cat(batches()).mean((0, 2, 3)))


def test_each_domain_has_statistics_of_its_own():
    layer = normzoo.create("domain_specific_batch_norm", 4, num_domains=3).double()
    domains = [torch.arange(size) % 2 for size in SIZES]
    recalibrate(layer, list(zip(batches(), domains, strict=True)), forward=lambda layer, batch: layer(*batch))
    everything, domain = torch.cat(batches()), torch.cat(domains)
    for d in range(2):
        torch.testing.assert_close(layer.running_mean[d], everything[domain == d].mean((0, 2, 3)))
        torch.testing.assert_close(layer.running_var[d], everything[domain == d].var((0, 2, 3)))
    assert torch.equal(layer.running_var[2], torch.ones(4).double()), "a domain that did not come keeps its own"
    assert layer.num_batches_tracked.tolist() == [3, 3, 0]


def test_a_torchvision_model_gets_statistics_in_every_norm():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(num_classes=3)
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, [(torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.long))])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (
            not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        )


def test_later_layers_see_what_they_saw_in_training() -> None:
    model = nn.Sequential(normzoo.create("batch_norm", 2), nn.ReLU(), normzoo.create("batch_norm", 2))
    x = torch.randn(64, 2) * 5 + 3
    recalibrate(model, [x])
    first = torch.relu((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt())
    torch.testing.assert_close(model[2].running_mean, first.mean(0))


@pytest.mark.parametrize(
    "name", ["online_norm", "power_norm", "batch_renorm", "batch_channel_norm", "moving_average_batch_norm"]
)
def test_layers_that_train_on_running_statistics_forget_those_of_before(name):
    """What follows them must see what it will see in evaluation."""
    options = {"warmup_steps": 0} if name in ("power_norm", "batch_renorm", "moving_average_batch_norm") else {}
    if name == "batch_renorm":
        options |= {"r_max_steps": 0, "d_max_steps": 0}
    model = nn.Sequential(normzoo.create(name, 4, **options), nn.BatchNorm2d(4)).double()
    for _ in range(3):
        model(3 * batches()[0])
    x = 2 * torch.randn(64, 4, 3, 3, dtype=torch.float64) + 3
    recalibrate(model, [x, x])
    y = model[0].eval()(x)
    torch.testing.assert_close(model[1].running_mean, y.mean((0, 2, 3)), rtol=0.1, atol=0.1)
    torch.testing.assert_close(model[1].running_var, y.var((0, 2, 3)), rtol=0.1, atol=0.1)


def test_a_schedule_and_other_state_go_on_where_they_were():
    model = nn.Sequential(
        *[normzoo.create(n, 4) for n in ("batch_renorm", "power_norm", "online_norm", "moving_average_batch_norm")]
    ).double()
    for x in batches():
        model(x).square().mean().backward()
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, batches() * 3)
    moved = ("running_mean", "running_var", "running_power", "running_moment")
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == (not key.endswith(moved)), key


def test_a_layer_never_trained_has_as_many_batches_as_it_got():
    layer = nn.BatchNorm2d(4, momentum=None).double()
    recalibrate(layer, batches())
    assert layer.num_batches_tracked == 3


LOADERS = {
    "a tensor": lambda x: x,
    "a list of one": lambda x: [x],
    "input and labels": lambda x: (x, torch.zeros(len(x), dtype=torch.long)),
    "a triple": lambda x: [x, torch.zeros(len(x)), torch.arange(len(x))],
    "a mapping": lambda x: {"input": x, "label": torch.zeros(len(x))},
}


def test_the_tensors_of_a_named_tuple_move_to_the_device():
    pair = collections.namedtuple("pair", "x y")
    moved = to_device(pair(torch.zeros(2), [torch.zeros(1)]), torch.device("meta"))
    assert isinstance(moved, pair)
    assert moved.x.is_meta
    assert moved.y[0].is_meta


@pytest.mark.parametrize("form", LOADERS)
@pytest.mark.parametrize("wrap", [lambda m: m, AveragedModel, nn.DataParallel])
def test_batches_come_as_loaders_give_them(form, wrap):
    model = wrap(nn.Sequential(nn.BatchNorm2d(4).double()))
    recalibrate(model, [LOADERS[form](x) for x in batches()])
    torch.testing.assert_close(
        model.state_dict()[next(k for k in model.state_dict() if "running_mean" in k)],
        torch.cat(batches()).mean((0, 2, 3)),
    )


def test_a_custom_forward_and_a_hint_at_it():
    layer = nn.BatchNorm2d(4).double()
    loader = [{"image": x, "n": 1} for x in batches()]
    with pytest.raises(Exception) as error:  # noqa: PT011
        recalibrate(layer, loader)
    assert 'forward=lambda model, batch: model(batch["image"])' in error.value.__notes__[0]
    recalibrate(layer, loader, forward=lambda model, batch: model(batch["image"]))
    torch.testing.assert_close(layer.running_mean, torch.cat(batches()).mean((0, 2, 3)))


class _Breaks(Exception):
    pass


@pytest.mark.parametrize("where", ["loader", "model"])
def test_nothing_has_changed_when_a_batch_raises(where):
    model = nn.Sequential(nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True), nn.Dropout()).double()
    model[2].eval()
    flags, before = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]

    def loader():
        yield batches()[0]
        if where == "loader":
            raise _Breaks
        yield torch.zeros(2, 4, 3, 3, dtype=torch.float64)

    def forward(model, x):
        model(x)
        if not x.any():
            raise _Breaks

    with pytest.raises(_Breaks):
        recalibrate(model, loader(), forward=forward)
    assert flags == [m.training for m in model.modules()]
    assert hooks == [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    assert [m.momentum for m in model[:2]] == [0.1, 0.1]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_dropout_and_random_numbers_are_untouched():
    model = nn.Sequential(timm_layers.BatchNormAct2d(4, drop_layer=lambda: nn.Dropout(0.5)), nn.BatchNorm2d(4)).double()
    data = torch.utils.data.TensorDataset(torch.cat(batches()))

    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return len(data)

        def __getitem__(self, i):
            return data[i][0] + 0 * (random.random() + np.random.rand() + torch.rand(()))

    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    twin = copy.deepcopy(model)
    recalibrate(model, torch.utils.data.DataLoader(Augmented(), 5, shuffle=True))
    assert state[0] == random.getstate()
    assert state[1] == np.random.get_state()[1].tolist()
    assert torch.equal(state[2], torch.get_rng_state())
    recalibrate(twin, [torch.cat(batches())])
    torch.testing.assert_close(model[0].running_var, twin[0].running_var)


def test_an_empty_loader_and_a_short_one_are_told():
    model = nn.BatchNorm2d(4).double()
    with pytest.raises(SurgeryError, match="the loader is empty"):
        recalibrate(model, [])
    with pytest.warns(UserWarning, match="asked for 10 batches, but the loader has only 3"):
        recalibrate(model, batches(), batches=10)
    with pytest.raises(normzoo.UserError, match="batches=0 must be a positive integer"):
        recalibrate(model, batches(), batches=0)
    recalibrate(model, batches(), batches=1)
    torch.testing.assert_close(model.running_mean, batches()[0].mean((0, 2, 3)))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 4), normzoo.create("layer_norm", 4)),
        nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)),
        nn.Sequential(normzoo.create("frozen_batch_norm", 4)),
    ],
)
def test_a_model_with_nothing_to_recalibrate_is_refused_before_a_batch_is_read(model):
    def unread():
        raise AssertionError("no batch is needed")
        yield

    with pytest.raises(SurgeryError, match="no layer of Sequential has running statistics"):
        recalibrate(model, unread())


def test_layers_that_are_not_called_and_statistics_that_are_not_finite_are_told():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aux = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x):
            return self.aux(self.main(x)) if self.training else self.main(x)

    model = Auxiliary()
    with pytest.warns(UserWarning, match="not called, and keep their statistics: aux"):
        recalibrate(model, [torch.randn(5, 2)])
    assert model.aux.num_batches_tracked == 0
    with pytest.warns(UserWarning, match="are not finite: 0"):
        recalibrate(nn.Sequential(nn.BatchNorm1d(2)), [torch.full((5, 2), float("nan"))])


def test_scripted_and_meta_models_are_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.BatchNorm1d(2)))
    with pytest.raises(SurgeryError, match="'0' is scripted"):
        recalibrate(scripted, [torch.randn(5, 2)])
    with pytest.raises(SurgeryError, match="'0' is on the meta device"):
        recalibrate(nn.Sequential(nn.BatchNorm1d(2, device="meta")), [torch.randn(5, 2)])


@pytest.mark.parametrize(
    "compile", [lambda m: torch.compile(m, backend="eager"), lambda m: m.compile(backend="eager") or m]
)
def test_a_compiled_model_is_recalibrated(compile):
    inside = nn.Sequential(nn.BatchNorm2d(4)).double()
    model = compile(inside)
    model(batches()[0])
    recalibrate(model, batches())
    torch.testing.assert_close(inside[0].running_mean, torch.cat(batches()).mean((0, 2, 3)))


def test_awkward_layers():
    shared, half, one = nn.BatchNorm1d(3), nn.BatchNorm2d(3).half(), nn.BatchNorm1d(1)
    x = torch.randn(8, 3)
    recalibrate(nn.Sequential(shared, shared), [x])
    both = torch.cat([x, (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()])
    torch.testing.assert_close(shared.running_var, both.var(0))
    images = torch.randn(4, 3, 5, 5).half() * 3
    recalibrate(half, [images])
    torch.testing.assert_close(half.running_var.float(), images.float().var((0, 2, 3)), rtol=1e-3, atol=0)
    recalibrate(one, [x[:, :1]])
    torch.testing.assert_close(one.running_mean, x[:, :1].mean(0))
    untracked = nn.BatchNorm1d(3, track_running_stats=False)
    recalibrate(nn.Sequential(one, nn.Linear(1, 3), untracked), [x[:, :1]])

    class Halved(nn.BatchNorm1d):
        """A subclass whose running statistics are not those of its input."""

        def forward(self, x):
            return super().forward(x / 2)

    layer = Halved(3)
    recalibrate(layer, [x])
    torch.testing.assert_close(layer.running_mean, x.mean(0) / 2)


def test_a_batch_norm_by_another_name_is_recalibrated():
    class Whitened(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("moving_average", torch.zeros(4).double())
            self.register_buffer("moving_square", torch.ones(4).double())

        def forward(self, x):
            if self.training:
                var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
                self.moving_average.lerp_(mean.detach(), 0.01)
                self.moving_square.lerp_(var.detach(), 0.01)
            else:
                mean, var = self.moving_average, self.moving_square
            return (x - mean[:, None, None]) * (var[:, None, None] + 1e-5).rsqrt()

    model = nn.Sequential(Whitened(), nn.BatchNorm2d(4)).double()
    recalibrate(model, batches())
    torch.testing.assert_close(model[0].moving_average, torch.cat(batches()).mean((0, 2, 3)))
    torch.testing.assert_close(model[0].moving_square, torch.cat(batches()).var((0, 2, 3)))
