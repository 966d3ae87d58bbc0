"""A model of the user's that ignores the norm, or the placement, is refused before it trains."""

import copy
import itertools
import sys
from types import SimpleNamespace

import pytest
from torch import nn

from normzoo import UserError
from normzoo.sweep.precheck import Precheck
from normzoo.training.check import check_ignored, find_ignored
from normzoo.training.config import parse

DATA = SimpleNamespace(image_shape=(1, 8, 8), num_classes=10)
MODELS = ("mlp", "plain_cnn", "resnet8", "vgg6")


class Follows(nn.Module):
    """Two stages, built as asked; the others are it with a fault."""

    def __init__(self, norm, placement, in_channels=1, num_classes=10):
        super().__init__()
        self.placement, self.order = placement, placement.order
        self.conv = nn.Conv2d(in_channels, 8, 3)
        self.norms = nn.ModuleList(self.build(norm, i) for i in range(2))
        self.fc = nn.Linear(8, num_classes)

    def build(self, norm, i):
        return norm(8) if self.placement.at(i, 2) else nn.Identity()

    def forward(self, x):
        x = self.conv(x)
        for norm in self.norms:
            x = norm(x).relu() if self.order == "pre_act" else norm(x.relu())
        return self.fc(x.mean((2, 3)))


class TakesNormAlone(nn.Module):
    """A model whose constructor has no argument but the norm."""

    def __init__(self, norm):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3), norm(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.layers(x))


class Raises(Follows):
    def build(self, norm, i):
        return {}["width"]


class Copies(Follows):
    def build(self, norm, i):
        return copy.deepcopy(norm(8)) if self.placement.at(i, 2) else nn.Identity()


class HardCoded(Follows):
    def build(self, norm, i):
        return nn.BatchNorm2d(8)


class Discards(HardCoded):
    """Builds the norm, and never calls it."""

    def __init__(self, norm, **options):
        super().__init__(norm, **options)
        self.unused = norm(8)


class WithoutNorms(Follows):
    def build(self, norm, i):
        return nn.Identity()


class IgnoresWhere(Follows):
    def build(self, norm, i):
        return norm(8)


class IgnoresOrder(Follows):
    def forward(self, x):
        self.order = "pre_act"
        return super().forward(x)


class Partly(Follows):
    def build(self, norm, i):
        return norm(8) if i else nn.BatchNorm2d(8)


def of(model, norm="group_norm", order="pre_act", where="all"):
    chosen = {"name": model.__name__, "_target_": f"{__name__}.{model.__name__}"}
    placement = {"name": "p", "order": order, "where": where}
    data, optimizer = {"_target_": "any"}, {"_target_": "any", "base_lr": 0.1}
    return parse(
        {"model": chosen, "norm": {"name": norm}, "placement": placement, "data": data, "optimizer": optimizer}
    )


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Follows.__module__])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (of(HardCoded), r"model=HardCoded ignores norm=; it builds norms of its own: norms.0 .BatchNorm2d., norms.1 "),
        (of(HardCoded, norm="batch_norm"), "ignores norm="),
        (of(HardCoded, norm="identity"), "ignores norm="),
        (of(HardCoded, where="none"), "ignores norm="),
        (of(Discards), "ignores norm="),
        (of(WithoutNorms), "ignores norm=; it has no norms; choose norm=identity, or build norms by"),
        (of(IgnoresWhere, where="first"), "ignores placement.where=first; leave it at all"),
        (of(TakesNormAlone, where="first"), "ignores placement.where=first; leave it at all"),
        (of(IgnoresWhere, where="none"), "ignores placement.where=none"),
        (of(IgnoresOrder, order="post_act"), "ignores placement.order=post_act; leave it at pre_act"),
    ],
)
def test_what_is_ignored_is_named(config, said):
    with pytest.raises(UserError, match=said):
        check_ignored(config, DATA)


@pytest.mark.parametrize("model", [Follows, Copies])
def test_a_model_that_follows_is_taken_with_every_norm_and_placement(model):
    for order, where in itertools.product(("pre_act", "post_act"), ("all", "none", "first", "last", [0])):
        check_ignored(of(model, order=order, where=where), DATA)
    for norm in ("identity", "dynamic_tanh", "batch_norm"):
        check_ignored(of(model, norm=norm), DATA)


@pytest.mark.parametrize(
    "config",
    [
        of(WithoutNorms, norm="none"),
        of(WithoutNorms, where="none"),
        of(IgnoresWhere),
        of(TakesNormAlone),
        of(IgnoresWhere, order="post_act"),
        of(IgnoresOrder, where="first"),
        of(IgnoresOrder, order="post_act", where="none"),
    ],
)
def test_what_makes_no_difference_to_a_cell_does_not_refuse_it(config):
    check_ignored(config, DATA)


def test_norms_that_stay_are_said(caplog):
    with caplog.at_level("INFO", "normzoo"):
        check_ignored(of(Partly), DATA)
    assert "model=Partly keeps norms of its own, whatever norm= is: norms.0 (BatchNorm2d)" in caplog.text


@pytest.mark.parametrize("model", MODELS)
def test_our_own_models_follow(model, config):
    whole = parse(config(f"model={model}", "data=synthetic"))
    for order, where in itertools.product(("pre_act", "post_act"), ("all", "none", "first", "last", "all_but_last")):
        placed = whole.changed(placement={"order": order, "where": where})
        assert find_ignored(placed, DATA, identity=False) is None


def test_a_sweep_refuses_the_cells_and_says_why(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_models.py").write_text(
        "from torch import nn\n"
        "def net(norm, placement, in_channels, num_classes, **options):\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, num_classes))\n"
    )
    command = ("train", *tiny, "~model", "+model={name: theirs, _target_: their_models.net}", "norm=group_norm")
    code, _, err = cli(*command)
    assert code == 2
    assert "model=theirs ignores norm=; it builds norms of its own: 1 (BatchNorm1d)" in err


def test_whatever_a_model_or_data_of_the_users_raises_refuses_its_cell_alone(config, monkeypatch):
    own = parse({**config(), "model": {"_target_": f"{__name__}.Raises"}})
    precheck = Precheck()
    assert "KeyError: 'width'" in precheck.of(own)[0]
    assert precheck.of(parse(config()))[0] is None

    def broken(self):
        raise LookupError("no such split")

    monkeypatch.setattr("normzoo.data.synthetic.Synthetic.read", broken)
    assert precheck.of(parse(config("data.train_size=97")))[0] == "data=synthetic: LookupError: no such split"
