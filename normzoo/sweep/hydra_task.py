"""What Hydra calls for each composed configuration."""

import contextlib
import copy
import json
import logging
import math
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from normzoo.errors import UserError, exit_with
from normzoo.resume_command import go_on_alone
from normzoo.sweep.hydra_errors import config_error
from normzoo.sweep.precheck import Verdicts
from normzoo.sweep.sweeper import size
from normzoo.text import counted, printable
from normzoo.training.cell import run_cell, write_probe
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.config import check_hydra, check_keys, complete
from normzoo.training.distributed import rank

log = logging.getLogger("normzoo")


def train(config: DictConfig) -> float:
    """Train one cell in Hydra's output folder.

    Returns:
        The validation error in percent with running statistics, which sweepers minimize. In a sweep a cell that failed
        or was refused counts as infinitely bad instead of ending the sweep; its record says why.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    # Relative paths are those of where the command was typed, also once Hydra has gone into the folder of the cell.
    here = contextlib.chdir(hydra.runtime.cwd) if hydra.job.chdir else contextlib.nullcontext()
    try:
        with here:
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
        sys.stderr.write(printable(traceback.format_exc()))  # here, so that nobody takes it for Hydra's own
        sys.exit(1)
    if result is None:
        return math.nan  # the first process of torchrun has it
    if hydra.mode == RunMode.RUN:
        print(printable(f"{result.status}: {folder / 'result.json'}"))
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
            check_hydra(config)
            if OmegaConf.select(config, "sweep.dry_run"):
                _plan_alone(config)
            write_probe(Path(config.hydra.run.dir))
        except UserError as error:
            exit_with(error)
        grids = OmegaConf.select(config, "hydra.sweeper.grids")
        if grids and rank() == 0:
            chosen = config.hydra.runtime.choices.get("experiment")
            sys.stderr.write(
                f"{f'experiment={chosen}' if chosen else 'hydra.sweeper.grids'} is a sweep of {counted(size(grids))}: "
                "add -m to run it; this trains one cell with its settings\n"
            )


def _plan_alone(config: DictConfig) -> NoReturn:
    """Say what would become of a single cell, and end.

    Raises:
        UserError: If it cannot be.
    """
    folder = Path(config.hydra.run.dir)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.absolute())
    HydraConfig.instance().set_config(config)
    task = copy.copy(config)
    with read_write(task), open_dict(task):
        del task["hydra"]
    refused, _ = Verdicts().of(plain(task))
    if refused is not None:
        raise UserError(f"the cell cannot be: {refused}")
    state = "continues from its checkpoint" if (folder / CHECKPOINT).exists() else "to run"
    print(f"1 cell: {state}; result in {folder}; a dry run, nothing was trained")
    sys.exit(0)


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration resolved to dicts and lists, complete and checked for keys, as `run_cell` takes it.

    Raises:
        UserError: If a value refers to what is not there, or the configuration cannot be.
    """
    try:
        whole = complete(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
    except OmegaConfBaseException as error:
        raise config_error(error) or error from error
    raw = json.dumps(OmegaConf.to_container(config, resolve=False), default=str)
    check_keys(whole, HydraConfig.get().overrides.task, raw)
    return whole
