"""conf/model and conf/placement: each file is found, says its own name, and builds."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import normzoo
from normzoo import UserError
from normzoo.models.blocks import Placement

hydra = pytest.importorskip("hydra")
from omegaconf import OmegaConf  # noqa: E402

CONF = Path(__file__).parents[2] / "conf"
LIBRARIES = ("timm", "torchvision")  # whose models build norms of their own
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem not in LIBRARIES)
PLACEMENTS = sorted(path.stem for path in (CONF / "placement").glob("*.yaml"))


def load(group, name, **others):
    config = OmegaConf.create({group: OmegaConf.load(CONF / group / f"{name}.yaml"), **others})
    return OmegaConf.to_container(config, resolve=True)[group]


def build(model, placement="pre_act", norm="batch_norm"):
    config = load("model", model, data={"image_size": 32})
    assert config.pop("name") == model
    place = load("placement", placement)
    assert place.pop("name") == placement
    with torch.device("meta"):
        return hydra.utils.instantiate(config, _partial_=True, _convert_="all")(
            norm=normzoo.factory(norm), placement=Placement(**place), in_channels=3, num_classes=10
        )


def test_the_files_there_are():
    assert {"bn_inception", "inception_small", "lstm", "rnn", "vgg6", "vgg9", "vgg11", "vgg16"} <= set(MODELS)
    assert {"plain_cnn", "lenet5", "resnet8", "resnet20", "resnet18", "resnet50", "mlp", "vit_tiny"} <= set(MODELS)
    assert {"pre_act", "post_act", "first_only", "last_only", "all_but_last", "none"} <= set(PLACEMENTS)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("model", MODELS)
def test_each_model_with_each_placement(model, placement):
    if model in ("lstm", "rnn", "vit_tiny") and placement == "post_act":
        with pytest.raises(UserError, match=r"is not possible in a (recurrent cell|transformer)"):
            build(model, placement)
        return
    built = build(model, placement)
    assert built(torch.empty(4, 3, 32, 32, device="meta")).shape == (4, 10)
    assert bool(list(normzoo.norm_layers(built))) == (placement != "none")


@pytest.mark.parametrize("path", sorted(CONF.glob("model/*.yaml")) + sorted(CONF.glob("placement/*.yaml")), ids=str)
def test_each_file_opens_with_what_it_is(path):
    assert path.read_text().startswith("# ")


def test_models_import_torch_alone():
    files = sorted(path.stem for path in Path(normzoo.__file__).parent.glob("models/*.py") if path.stem != "__init__")
    modules = ", ".join(f"normzoo.models.{name}" for name in files)
    code = f"import sys, {modules}\nprint([n for n in ('torchvision', 'lightning', 'hydra') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
