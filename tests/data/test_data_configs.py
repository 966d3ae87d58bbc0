"""Every data set has a config, every config names a data set and documents its options."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.utils import get_class, instantiate

from normzoo.data.base import ImageData

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "data").glob("*.yaml"))


def options_of(cls: type) -> set[str]:
    """All keyword arguments, those of base classes included."""
    return {
        name
        for base in cls.__mro__
        if "__init__" in vars(base) and issubclass(base, ImageData)
        for name, parameter in inspect.signature(base.__init__).parameters.items()  # type: ignore[misc]
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def test_every_data_set_has_a_config() -> None:
    assert {path.stem for path in CONFIGS} >= {
        "mnist5k", "digits", "fashion_mnist", "mnist", "cifar10", "image_folder", "synthetic"
    }  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_names_its_data_set_and_lists_its_options(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    cls = get_class(config["_target_"])
    assert issubclass(cls, ImageData)
    assert config["name"] == path.stem == cls.name
    options = set(config) - {"name", "_target_"}
    assert options <= options_of(cls)
    # The trainer passes the first two; the third is for coloured things without a left and a right.
    assert options_of(cls) - options <= {"batch_size", "seed", "augment"}
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_makes_a_data_module(path: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    del config["name"]
    if "root" in config:
        config["root"] = str(tmp_path)
    if "file" in config:
        config["file"] = str(tmp_path / "own.npz")
        np.savez(config["file"], x=np.zeros((5, 8, 8), np.uint8), y=np.arange(5))
    data = instantiate(config, batch_size=2, seed=1, _convert_="all")
    assert (data.batch_size, data.seed) == (2, 1)
    assert len(data.image_shape) == 3
