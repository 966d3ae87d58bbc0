"""A sweep's cells, composed and checked before anything trains."""

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import filter_overrides
from omegaconf import DictConfig, open_dict, read_write

from normzoo.errors import UserError
from normzoo.results import CellResult, cell_id, read_result, write_result
from normzoo.training.build import build_data, global_batch
from normzoo.training.cell import describe, write_probe
from normzoo.training.check import RefusedError, check_cell
from normzoo.training.task import plain

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import NormzooLauncher

log = logging.getLogger("normzoo")

STEPS_TO_START = 300  # what starting a cell costs, in steps; only the time left is told from it


@dataclass
class Cell:
    """One cell of a sweep, planned."""

    hydra_config: DictConfig
    config: dict[str, Any]
    folder: Path
    label: str = ""
    num_train: int = 0
    refused: str | None = None

    @property
    def cost(self) -> float:
        """Roughly, in optimizer steps."""
        return (self.config["trainer"]["max_epochs"] or 1) * self.num_train / global_batch(self.config) + STEPS_TO_START

    @property
    def finished(self) -> bool:
        """Whether an earlier run of the sweep has left its result."""
        result = self.result()
        return result is not None and result.status in ("ok", "diverged")

    def result(self) -> CellResult | None:
        """The record, where there is one that can be read."""
        with contextlib.suppress(UserError):
            return read_result(self.folder)
        return None


def plan(launcher: "NormzooLauncher", job_overrides: list[list[str]], first: int) -> list[Cell]:
    """Compose every cell and refuse those that cannot be, by name, before anything trains.

    Raises:
        UserError: If an option is wrong in itself, data is missing, the folder cannot be written, or no cell is left.
    """
    sweep_folder = Path(launcher.config.hydra.sweep.dir).absolute()
    write_probe(sweep_folder)
    constant = set.intersection(*(set(overrides) for overrides in job_overrides)) if len(job_overrides) > 1 else set()
    cells: dict[str, Cell] = {}
    datasets: dict[str, Any] = {}
    verdicts: dict[str, str | None] = {}
    for number, overrides in enumerate(job_overrides, start=first):
        cell = _compose(launcher, overrides, number, sweep_folder)
        cell.label = " ".join(o for o in filter_overrides(overrides) if o not in constant) or cell.folder.name
        if cell.folder.name in cells:
            continue
        cells[cell.folder.name] = cell
        if cell.config.get("study"):
            continue  # it measures something of its own, and says itself what it cannot
        data = _once(datasets, cell.config["data"], lambda cell=cell: _ready(cell.config))
        cell.num_train = data.num_train
        unseeded = {key: value for key, value in cell.config.items() if key != "seed"}
        cell.refused = _once(verdicts, unseeded, lambda cell=cell, data=data: _verdict(cell, data))
        if cell.refused:
            write_result(cell.folder, CellResult(**describe(cell.config), status="refused", reason=cell.refused))
    _say_refused(list(cells.values()))
    return list(cells.values())


def _compose(launcher: "NormzooLauncher", overrides: list[str], number: int, sweep_folder: Path) -> Cell:
    composed = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = str(number)
        composed.hydra.job.num = number
    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(composed)
        with read_write(composed.hydra.runtime), open_dict(composed.hydra.runtime):
            composed.hydra.runtime.output_dir = str(
                sweep_folder
            )  # a logger's path refers to it; no part of the identity
        task = composed.copy()
        with open_dict(task):
            del task["hydra"]
        config = plain(task)
    finally:
        HydraConfig.instance().cfg = before
    identity = cell_id(config)
    with read_write(composed.hydra.sweep):
        composed.hydra.sweep.dir = str(sweep_folder)
        composed.hydra.sweep.subdir = identity
    return Cell(composed, config, sweep_folder / identity)


def _ready(config: dict[str, Any]) -> Any:
    data: Any = build_data({**config, "batch_size_per_device": 1})  # whether a batch fits is asked of each cell
    data.prepare_data()
    data.setup("fit")
    return data


def _verdict(cell: Cell, data: Any) -> str | None:
    try:
        check_cell(cell.config, data)
    except RefusedError as error:
        return str(error)
    return None


def _once(known: dict[str, Any], of: Any, make: Any) -> Any:
    key = json.dumps(of, sort_keys=True, default=str)
    if key not in known:
        known[key] = make()
    return known[key]


def _say_refused(cells: list[Cell]) -> None:
    labels: dict[str, list[str]] = {}
    for cell in cells:
        if cell.refused:
            labels.setdefault(cell.refused, []).append(cell.label)
    for reason, of in labels.items():
        others = f" and {len(of) - 1} more" if len(of) > 1 else ""
        log.info("refused: %s%s: %s", of[0], others, reason)
    if cells and all(cell.refused for cell in cells):
        raise UserError(f"none of the {len(cells)} cells can be; the first: {cells[0].refused}")
