"""Compare a grid of cells with a conventional program: Dataset, DataLoader, torchmetrics, the basic launcher."""

import json
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from normzoo.bench.measurement import Measurement
from normzoo.errors import UserError
from normzoo.results import FINISHED, CellResult, write_atomic
from normzoo.resume_command import hydra_quoted
from scripts.bench_sweep.commands import ended, run, sweep

BASELINE = Path(__file__).parents[1] / "template_baseline" / "train.py"
NAME = "a grid, to the usual Lightning-Hydra template"
# Of the default grid: as many cells at batch 2, where a step costs most, as at 32.
PART = {"norm": "group_norm,batch_norm", "batch_size_per_device": "2,8,32", "seed": "0"}
SHARED = "data.image_size=8"  # what both are told besides
MAY_FAIL = (0, 1)  # exit codes: with 1 some cells have failed, and others have not

Grid = Mapping[str, str]


def default_grid() -> list[Grid]:
    """Return the grids of `experiment=small_batch`."""
    from omegaconf import OmegaConf

    text = files("normzoo.conf").joinpath("experiment", "small_batch.yaml").read_text()
    grids: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    return [{key: str(value) for key, value in grid.items()} for grid in grids["hydra"]["sweeper"]["grids"]]


def against_template(grids: Sequence[Grid] | None = None, keep: Path | None = None) -> Measurement:
    """Measure how many times longer the conventional program takes than `normzoo train -m` on the same cells.

    Args:
        grids: Each maps an override to its comma-separated values; None for the default experiment.
        keep: Folder for the output of both; existing runs, with their times, are not repeated.

    Raises:
        UserError: If one of the commands ends without a single cell.
    """
    if not BASELINE.is_file():
        return Measurement(
            NAME, "×", 4.0, False, (), "the program is in scripts/ of the repository; run this in a checkout"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)).absolute()
        here = folder / "normzoo"
        seconds = _once(here, lambda: sweep(_ours(grids), here, MAY_FAIL)[0])
        finished: dict[str, CellResult] = {}
        refused: set[str] = set()
        for result in (one.result for one in ended(here)):
            if result.status in FINISHED:
                finished[_cell(result.config)] = result
            elif result.status == "refused":
                refused.add(result.config["norm"]["name"])
        others, errors = 0.0, dict[str, float]()
        for number, grid in enumerate(default_grid() if grids is None else grids):
            there = folder / f"template_{number}"
            # It has no check before training: an instance norm on a 1×1 map would end it.
            command = _theirs(grid, refused, there)
            others += _once(there, lambda command=command: run(command, folder, MAY_FAIL))  # type: ignore[misc]
            for file in there.glob("*/metrics.json"):
                errors[_cell(_read_yaml(file.parent / ".hydra" / "config.yaml"))] = _read_error(file)
    both = finished.keys() & errors.keys()
    if not both:
        raise UserError(f"{len(finished)} cells here and {len(errors)} there, and none in both: they are not compared")
    pairs = [
        (finished[cell].metrics["val_error_running"], errors[cell]) for cell in both if finished[cell].status == "ok"
    ]
    notes = [
        f"{len(both)} cells, {seconds:.0f} s here and {others:.0f} s there, starting included",
        _errors_compared([(ours, theirs) for ours, theirs in pairs if ours is not None and math.isfinite(theirs)]),
    ]
    if finished.keys() != errors.keys():
        # A cell that one of them lacks has cost it less, or nothing; only the times of whole grids are compared.
        notes.append(f"MORE cells: {len(finished) - len(both)} here and {len(errors) - len(both)} there")
    return Measurement(NAME, "×", 4.0, False, [others / seconds], "; ".join(notes))


def _once(folder: Path, run_into: Callable[[], float]) -> float:
    """Return the seconds of a run into `folder`, or those of an earlier one; an interrupted run starts over."""
    known = folder.with_name(f"{folder.name}.json")
    seconds = json.loads(known.read_bytes())["seconds"] if known.is_file() else None
    if seconds is not None:
        return float(seconds)
    if folder.exists() and not known.is_file():
        raise UserError(f"{folder} is there already, and is not of this comparison: choose another folder with --keep")
    write_atomic(known, json.dumps({"seconds": None}) + "\n")  # begun, so that what is there may be removed
    shutil.rmtree(folder, ignore_errors=True)
    seconds = run_into()
    write_atomic(known, json.dumps({"seconds": seconds}) + "\n")
    return seconds


def _ours(grids: Sequence[Grid] | None) -> list[str]:
    if grids is None:
        return ["experiment=small_batch"]
    listed = ",".join(
        "{" + ",".join(f"{hydra_quoted(key)}:{hydra_quoted(value)}" for key, value in grid.items()) + "}"
        for grid in grids
    )
    return ["trainer=cpu", SHARED, f"hydra.sweeper.grids=[{listed}]"]


def _theirs(grid: Grid, refused: set[str], target: Path) -> list[str]:
    norms = ",".join(norm for norm in grid["norm"].split(",") if norm not in refused)
    told = [SHARED] if SHARED.split("=")[0] not in grid else []
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
