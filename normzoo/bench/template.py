"""A grid of cells, here and in a program of the usual kind: Dataset, DataLoader, torchmetrics, the basic launcher."""

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from normzoo.again import hydra_quoted
from normzoo.bench.commands import run, sweep
from normzoo.bench.figure import Figure

BASELINE = Path(__file__).parents[2] / "scripts" / "template_baseline" / "train.py"
NAME = "a grid, to the usual Lightning-Hydra template"
# Of the default grid: as many cells at batch 2, where a step costs most, as at 32.
PART = {"norm": "group_norm,batch_norm", "batch_size_per_device": "2,8,32", "seed": "0"}

Grid = Mapping[str, str]


def default_grid() -> list[Grid]:
    """The grids of `experiment=small_batch`, as its file has them."""
    from omegaconf import OmegaConf

    text = files("normzoo.conf").joinpath("experiment", "small_batch.yaml").read_text()
    grids: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    return [{key: str(value) for key, value in grid.items()} for grid in grids["hydra"]["sweeper"]["grids"]]


def against_template(
    grids: Sequence[Grid] | None = None, rounds: int = 1, shared: Sequence[str] = ("data.image_size=8",)
) -> Figure:
    """How many times longer the whole commands of the usual program take than `normzoo train -m` on the same cells.

    Args:
        grids: Each an override with its values, comma-separated; None for the default experiment.
        rounds: How often both run, in turn.
        shared: What both are told besides.
    """
    if not BASELINE.is_file():
        return Figure(NAME, "×", 4.0, False, (), "the program is in scripts/ of the repository; run this in a checkout")
    chosen = default_grid() if grids is None else list(grids)
    ratios, notes = [], ""
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds, ended = sweep(_ours(grids, shared), Path(folder) / "normzoo")
            # It has no check before training: an instance norm on a 1×1 map would end it.
            refused = {one.result.config["norm"]["name"] for one in ended if one.result.status == "refused"}
            others, errors = 0.0, {}
            for number, grid in enumerate(chosen):
                target = Path(folder) / f"template_{number}"
                others += run(_theirs(grid, refused, shared, target), Path(folder))
                for file in target.glob("*/metrics.json"):
                    errors[_cell(_read_yaml(file.parent / ".hydra" / "config.yaml"))] = _read_error(file)
        finished = {_cell(one.result.config): one.result for one in ended if one.result.status in ("ok", "diverged")}
        if finished.keys() != errors.keys():
            raise RuntimeError(f"{len(finished)} cells here and {len(errors)} there: they cannot be compared")
        ratios.append(others / seconds)
        pairs = [
            (one.metrics["val_error_running"], errors[cell]) for cell, one in finished.items() if one.status == "ok"
        ]
        notes = (
            f"{len(errors)} cells, {seconds:.0f} s here and {others:.0f} s there, starting included; "
            f"{_errors_compared([(ours, theirs) for ours, theirs in pairs if ours is not None])}"
        )
    return Figure(NAME, "×", 4.0, False, ratios, notes)


def _ours(grids: Sequence[Grid] | None, shared: Sequence[str]) -> list[str]:
    if grids is None:
        return ["experiment=small_batch"]
    listed = ",".join(
        "{" + ",".join(f"{hydra_quoted(key)}:{hydra_quoted(value)}" for key, value in grid.items()) + "}"
        for grid in grids
    )
    return ["trainer=cpu", *shared, f"hydra.sweeper.grids=[{listed}]"]


def _theirs(grid: Grid, refused: set[str], shared: Sequence[str], target: Path) -> list[str]:
    norms = ",".join(norm for norm in grid["norm"].split(",") if norm not in refused)
    told = [one for one in shared if one.split("=")[0] not in grid]
    values = [f"{key}={value}" for key, value in {**grid, "norm": norms}.items()]
    # An option that only some norms have is new to the others' configuration.
    return [sys.executable, str(BASELINE), "-m", *told, *values, f"hydra.sweep.dir={hydra_quoted(str(target))}"]


def _cell(config: Mapping[str, Any]) -> str:
    """What a cell is called in both programs: by what is swept."""
    groups = {name: config[name] for name in ("norm", "placement", "model")}
    swept = [config["batch_size_per_device"], config["data"]["image_size"], config["seed"]]
    return json.dumps([groups, *swept], sort_keys=True)


def _read_yaml(file: Path) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)


def _read_error(file: Path) -> float:
    return float(json.loads(file.read_bytes())["val_error"])


def _errors_compared(pairs: Sequence[tuple[float, float]]) -> str:
    """The mean errors of the same cells in both, and whether they differ by more than seeds do."""
    if not pairs:
        return "no errors to compare"
    here, there = (statistics.fmean(errors) for errors in zip(*pairs, strict=True))
    told = f"mean error {here:.1f} % here and {there:.1f} % there"
    if len(pairs) < 2:
        return told
    noise = statistics.stdev(ours - theirs for ours, theirs in pairs) / math.sqrt(len(pairs))
    verdict = "" if abs(here - there) <= 3 * noise else ", MORE than chance"
    return f"{told}, a difference of {here - there:+.2f} ± {noise:.2f} (standard error over cells){verdict}"
