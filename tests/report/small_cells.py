"""The cells of an experiment, run for real on a few images."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from normzoo.results import CellResult
from normzoo.training.cell import run_cell

SMALL = ("data.train_size=192", "data.val_size=40", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1")


def ran(experiment: str, folder: Path, *overrides: str) -> CellResult:
    with initialize_config_module("normzoo.conf", version_base="1.3"):
        cell = compose("train", [f"experiment={experiment}", *SMALL, *overrides])
        config: Any = OmegaConf.to_container(cell, resolve=True)
    found = run_cell(config, folder)
    assert found is not None
    return found
