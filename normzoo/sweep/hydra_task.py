"""What Hydra calls for each composed configuration."""

import contextlib
import copy
import json
import logging
import math
import sys
import traceback
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from normzoo.errors import UserError, exit_with
from normzoo.resume_command import go_on_alone
from normzoo.sweep.hydra_errors import config_error
from normzoo.sweep.precheck import Precheck
from normzoo.text import printable
from normzoo.training.cell import run_cell, write_probe
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.config import CellConfig, parse
from normzoo.training.distributed import rank
from normzoo.training.machine import where_full

log = logging.getLogger("normzoo")


def train(config: DictConfig) -> float:
    """Train one cell in Hydra's output folder.

    Returns:
        The validation error in percent with running statistics, which sweepers minimize. In a sweep a cell that failed
        or was refused counts as infinitely bad instead of ending the sweep; its record tells why.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    # Relative paths are those of where the command was typed, even if Hydra has changed into the folder of the cell.
    here = contextlib.chdir(hydra.runtime.cwd) if hydra.job.chdir else contextlib.nullcontext()
    try:
        with here:
            result = run_cell(parsed(config), folder)
    except KeyboardInterrupt:
        if hydra.mode == RunMode.MULTIRUN:
            raise
        raise KeyboardInterrupt(_how_to_resume(folder)) from None
    except Exception as error:
        if hydra.mode == RunMode.MULTIRUN:
            log.error("%s", error)
            return math.inf
        if isinstance(error, UserError):
            exit_with(error)
        if full := where_full(str(error), folder):  # the rest is in error.txt, where there is room for it
            sys.stderr.write(printable(f"error: {str(error).strip().splitlines()[-1]}{full}\n"))
            sys.exit(1)
        sys.stderr.write(printable(traceback.format_exc()))  # here, so that nobody takes it for Hydra's own
        sys.exit(1)
    if result is None:
        return math.nan  # the first process of torchrun has it
    if hydra.mode == RunMode.RUN:
        print(printable(f"{result.status}: {folder / 'result.json'}"))
    error_rate = result.metrics.get("val_error_running")
    return math.inf if error_rate is None or result.status != "ok" else error_rate


def _how_to_resume(folder: Path) -> str:
    if not (folder / CHECKPOINT).exists():
        return f"interrupted before its first checkpoint: {folder} holds nothing to resume from"
    with contextlib.suppress(ValueError):
        folder = folder.relative_to(Path.cwd())
    return f"interrupted; this command resumes it from its checkpoint:\n  {go_on_alone(folder)}"


class CheckOutput(Callback):
    """Checks a single cell before Hydra makes its folder, and that the folder can be written."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Have normzoo run a search by the options of Hydra's plugin for Optuna, which can neither prune nor resume."""
        if config.hydra.sweeper._target_ == "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper":
            with read_write(config), open_dict(config):
                config.hydra.sweeper._target_ = "hydra_plugins.normzoo_sweep.OptunaSweeper"

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """As Hydra calls it."""
        try:
            check_hydra(config)
            if OmegaConf.select(config, "sweep.dry_run"):
                _print_plan(config)
            write_probe(Path(config.hydra.run.dir))
        except UserError as error:
            exit_with(error)
        if OmegaConf.select(config, "hydra.sweeper.grids") and rank() == 0:
            chosen = config.hydra.runtime.choices.get("experiment")
            grids = f"experiment={chosen}" if chosen else "hydra.sweeper.grids"
            sys.stderr.write(f"{grids} is a sweep: add -m to run it; this trains one cell with its settings\n")


def check_hydra(config: Any) -> None:
    """Reject options that nothing reads in Hydra's own part of a configuration.

    Args:
        config: With Hydra's node.

    Raises:
        UserError: If there is one; the message names it.
    """
    sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    subdir = sweep.get("subdir")
    if subdir != "${hydra.job.num}":
        raise UserError(
            f"hydra.sweep.subdir={subdir}: a sweep finds its cells again by the names of their folders; leave it "
            "out, and choose the folder of the sweep with hydra.sweep.dir"
        )
    for line in config.hydra.overrides.hydra:
        node: Any = OmegaConf.structured(HydraConf)
        for name in line.lstrip("+~").partition("=")[0].split(".")[1:]:
            if not isinstance(node, DictConfig) or not is_dataclass(OmegaConf.get_type(node)):
                break  # whatever an engine or a callback may take
            if name not in node.keys():  # noqa: SIM118 (`in node` denies what is missing)
                raise UserError(f"{line}: nothing reads it; options: {', '.join(node)}")
            node = node._get_node(name)


def _print_plan(config: DictConfig) -> NoReturn:
    """Print the plan of a single cell, and exit.

    Raises:
        UserError: If it cannot run.
    """
    folder = Path(config.hydra.run.dir)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.absolute())
    HydraConfig.instance().set_config(config)
    task = copy.copy(config)
    with read_write(task), open_dict(task):
        del task["hydra"]
    refused, _ = Precheck().of(parsed(task))
    if refused is not None:
        raise UserError(f"the cell cannot run: {refused}")
    state = "continues from its checkpoint" if (folder / CHECKPOINT).exists() else "to run"
    print(f"1 cell: {state}; result in {folder}; a dry run, nothing was trained")
    sys.exit(0)


def parsed(config: DictConfig) -> CellConfig:
    """Resolve and parse what Hydra has composed.

    Raises:
        UserError: If a value refers to something that is missing, or the configuration is wrong.
    """
    try:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise config_error(error) or error from error
    raw = json.dumps(OmegaConf.to_container(config, resolve=False), default=str)
    return parse(plain, HydraConfig.get().overrides.task, raw)
