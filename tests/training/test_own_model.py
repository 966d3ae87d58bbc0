"""Models that are not ours: with and without `norm`, of torchvision and timm, and with weights from a file."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normzoo
from normzoo.errors import UserError
from normzoo.models.libraries import load_weights, timm_model, torchvision_model
from normzoo.sweep.precheck import Precheck
from normzoo.training.config import parse
from normzoo.training.instantiate import build_model
from normzoo.training.saved import _build

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
OWN = "tests.training.test_own_model"
Compose = Callable[..., dict[str, Any]]


class Stock(nn.Sequential):
    """Three norms of its own, and no argument but the classes."""

    def __init__(self, num_classes: int) -> None:
        convs = [layer for _ in range(3) for layer in (nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ReLU())]
        super().__init__(*convs, nn.Flatten(), nn.Linear(64, num_classes))


class Bare(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))


class Maps(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(1, 1, 3, padding=1)


class Pair(Bare):
    def forward(self, x: Any) -> Any:
        return super().forward(x), None


def text(name: str) -> str:
    return f"{name}, not a module"


def cell(config: Compose, target: str, *overrides: str) -> dict[str, Any]:
    return {**config(*overrides), "model": {"_target_": target}}


def built(config: dict[str, Any]) -> nn.Module:
    return build_model(parse(config), (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("where", "converted"), [("all", [1, 4, 7]), ("first", [1]), ("last", [7]), ("all_but_last", [1, 4]), ("none", [])]
)
def test_the_norms_of_a_model_without_norm_are_converted_where_placed(
    config: Compose, where: str, converted: list[int]
) -> None:
    model = built({**cell(config, f"{OWN}.Stock", "norm=layer_norm"), "placement": {"where": where}})
    kinds = {number: type(model.get_submodule(str(number))).__name__ for number in (1, 4, 7)}
    assert kinds == {number: "LayerNorm" if number in converted else "Identity" for number in (1, 4, 7)}


@pytest.mark.parametrize(
    ("target", "overrides", "said"),
    [
        (f"{OWN}.Bare", [], "has no norms that could become batch_norm: choose norm=identity"),
        (f"{OWN}.Stock", ["placement=post_act"], "leave placement.order at pre_act"),
        (f"{OWN}.Stok", [], f"model._target_={OWN}.Stok: the module {OWN} has no Stok; did you mean Stock?"),
        ("no_such_package.Net", [], "Python finds no module no_such_package: .*PYTHONPATH"),
        (f"{OWN}.text", [], "missing 1 required positional argument"),
    ],
)
def test_what_cannot_be_built_has_one_line(config: Compose, target: str, overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        built(cell(config, target, *overrides))
    assert "\n" not in str(raised.value)


def test_a_model_without_norms_runs_with_identity(config: Compose) -> None:
    assert Precheck().of(parse(cell(config, f"{OWN}.Bare", "norm=identity")))[0] is None


@pytest.mark.parametrize(("name", "said"), [("Maps", r"shape \(8, 1, 8, 8\)"), ("Pair", "no tensor")])
def test_a_model_that_returns_no_logits_is_refused_before_it_trains(config: Compose, name: str, said: str) -> None:
    reason = Precheck().of(parse(cell(config, f"{OWN}.{name}", "norm=identity")))[0]
    assert re.search(rf"returns {said} for a batch of 8; it must return logits of shape \(8, 10\)", str(reason))


def test_an_option_left_over_from_another_model_is_named(config: Compose) -> None:
    left = config("model._target_=" + OWN + ".Stock")
    with pytest.raises(UserError, match=r"it is an option of model=plain_cnn: leave it out with ~model\."):
        built(left)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_model_of_a_library_has_the_norm_of_the_cell(config: Compose, library: str) -> None:
    pytest.importorskip(library)
    composed = config(f"model={library}", "model.name=resnet18", "norm=group_norm", "data.image_size=32")
    assert Precheck().of(parse(composed))[0] is None
    kinds = {type(layer) for _, layer in normzoo.norm_layers(built(composed))}
    assert kinds == {normzoo.info("group_norm").build}


def test_unknown_models_and_weights_are_refused_with_what_is_meant() -> None:
    with pytest.raises(UserError, match=r"model\.name=resnt18 is unknown; did you mean resnet18"):
        torchvision_model("resnt18", 1, 10)
    with pytest.raises(UserError, match=r"unknown model\.weights=V9; choose one of IMAGENET1K_V1, or a file"):
        torchvision_model("resnet18", 1, 10, "V9")
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=r"model\.name=resnt18 is unknown; did you mean"):
        timm_model("resnt18", 1, 10)


def test_options_of_the_norm_that_are_those_of_the_layer_keep_it() -> None:
    model = nn.Sequential(normzoo.create("batch_norm", 4))
    assert normzoo.convert(model, "batch_norm", bias=True).rows[0].reason == "it is batch_norm already"
    assert normzoo.convert(model, "batch_norm", bias=False).rows[0].action == "converted"


def test_weights_come_from_a_file_but_for_layers_of_another_size(tmp_path: Path) -> None:
    given, path = Stock(7), tmp_path / "weights.pt"
    torch.save({"state_dict": {f"model.{key}": value for key, value in given.state_dict().items()}}, path)
    model = load_weights(Stock(10), str(path))
    assert model.get_parameter("0.weight").equal(given.get_parameter("0.weight"))
    assert model.get_parameter("10.weight").shape[0] == 10


def test_weights_of_a_network_of_other_widths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    wide, narrow = (nn.Sequential(nn.Linear(4, n), nn.Linear(n, n), nn.Linear(n, 3)) for n in (8, 6))
    torch.save(wide.state_dict(), path)
    with pytest.raises(UserError, match=r"of another model: 1.weight has the shape \(8, 8\) there, and \(6, 6\) here"):
        load_weights(narrow, str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"no weights", "cannot be read as weights alone"),
        ({"x": 3}, "holds no state dict"),
        ({"x": torch.zeros(1)}, "is of another model: it lacks 0.bias and 22 more and has x"),
        ({"code": Stock}, "cannot be read as weights alone"),
    ],
)
def test_a_file_that_holds_no_such_weights_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=said):
        load_weights(Stock(10), str(path))


def test_a_trained_net_is_rebuilt_without_the_weights_it_began_with(config: Compose) -> None:
    began = config("model=torchvision", "model.name=resnet18", "model.weights=gone.pt", "data.image_size=32")
    with pytest.raises(UserError, match=r"model\.weights=gone\.pt: there is no such file"):
        built(began)
    assert _build(began, (1, 32, 32), 10, Path()).get_parameter("fc.weight").shape == (10, 512)


@pytest.mark.slow
def test_the_example_runs(tiny: tuple[str, ...], tmp_path: Path) -> None:
    folder = EXAMPLES / "own_model"
    command = [
        *(sys.executable, "-c", "from normzoo.cli import main; main()", "train", "-m", *tiny, "--config-dir", "conf"),
        *("model=tiny,stock", "norm=batch_norm,group_norm", f"hydra.sweep.dir={tmp_path}"),
    ]
    path = os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/result.json"))) == 4
