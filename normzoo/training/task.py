"""What Hydra calls for each composed configuration."""

import contextlib
import logging
import math
import sys
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from normzoo.again import go_on_alone
from normzoo.errors import UserError, exit_with
from normzoo.sweep.grids import size
from normzoo.training.cell import run_cell, write_probe
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.ranks import rank
from normzoo.training.recipe import apply_recipe

log = logging.getLogger("normzoo")


def train(config: DictConfig) -> float:
    """Train one cell in Hydra's output folder.

    Returns:
        The validation error in percent with running statistics, which sweepers minimize. In a sweep a cell that failed
        or was refused counts as infinitely bad instead of ending the sweep; its record says why.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    try:
        result = run_cell(plain(config), folder)
    except KeyboardInterrupt:
        if hydra.mode == RunMode.MULTIRUN:
            raise
        raise KeyboardInterrupt(_how_to_go_on(folder)) from None
    except Exception as error:
        if hydra.mode == RunMode.MULTIRUN:
            log.error("%s", error)
            return math.inf
        if isinstance(error, UserError):
            exit_with(error)
        raise
    if result is None:
        return math.nan  # the first process of torchrun has it
    if hydra.mode == RunMode.RUN:
        print(f"{result.status}: {folder / 'result.json'}")
    error_rate = result.metrics.get("val_error_running")
    return math.inf if error_rate is None or result.status != "ok" else error_rate


def _how_to_go_on(folder: Path) -> str:
    if not (folder / CHECKPOINT).exists():
        return f"interrupted before its first checkpoint: {folder} holds nothing to go on from"
    with contextlib.suppress(ValueError):
        folder = folder.relative_to(Path.cwd())
    return f"interrupted; this command goes on from its checkpoint:\n  {go_on_alone(folder)}"


class CheckOutput(Callback):
    """Looks at a single cell before Hydra makes its folder, and refuses one that cannot be written."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            write_probe(Path(config.hydra.run.dir))
        except UserError as error:
            exit_with(error)
        grids = OmegaConf.select(config, "hydra.sweeper.grids")
        if grids and rank() == 0:
            chosen = config.hydra.runtime.choices.get("experiment")
            sys.stderr.write(
                f"{f'experiment={chosen}' if chosen else 'hydra.sweeper.grids'} is a sweep of {size(grids)} cells: "
                "add -m to run it; this trains one cell with its settings\n"
            )


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration resolved to dicts and lists, its recipe applied, as `run_cell` takes it."""
    return apply_recipe(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
