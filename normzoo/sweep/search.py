"""Search with Optuna: a trial is the cells of its seeds, is pruned by epoch, and is resumed from its folder."""

import contextlib
import itertools
import json
import logging
import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.utils import get_method
from omegaconf import OmegaConf
from optuna.trial import TrialState

from normzoo.errors import UserError
from normzoo.files import read_file, write_atomic
from normzoo.sweep.cell import Cell
from normzoo.sweep.sweeper import GlobLoader
from normzoo.text import counted
from normzoo.training.callbacks import STOP, curve_so_far
from normzoo.training.config import sweep_options

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import OptunaSweeper

PRUNERS = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
}
TRIALS, BEST = "trials.json", "optimization_results.yaml"
log = logging.getLogger("normzoo")


@dataclass
class Asked:
    """A trial, and its cell for each seed, once they are planned; None for one that cannot be composed."""

    trial: optuna.trial.Trial
    cells: list[Cell | None] = field(default_factory=list)
    reported: set[Any] = field(default_factory=set)

    def report(self) -> None:
        """Report the mean error over seeds of each epoch that all of them have ended."""
        curves = [_errors(cell) for cell in self.cells if cell is not None]
        both = sorted(set.intersection(*map(set, curves)) - self.reported) if curves else []
        for epoch in both:
            self.trial.report(fmean(curve[epoch] for curve in curves), int(epoch))
            self.reported.add(epoch)

    def prune(self) -> None:
        """End its cells, if the others do better."""
        self.report()
        if self.reported and self.trial.should_prune():
            for cell in filter(None, self.cells):
                if cell.runs and cell.result(new=True) is None and not (cell.folder / STOP).exists():
                    write_atomic(cell.folder / STOP, f"pruned by the search in epoch {max(self.reported):.0f}")

    def tell(self, study: optuna.study.Study) -> None:
        """Tell the mean error over seeds, infinity if one has none; or that the trial was pruned."""
        self.report()
        results = [cell.result() for cell in self.cells if cell is not None]
        if any(result is not None and result.status == "pruned" for result in results):
            study.tell(self.trial, state=TrialState.PRUNED)
        else:
            study.tell(self.trial, fmean(math.inf if cell is None else cell.error for cell in self.cells))


def search(sweeper: "OptunaSweeper", arguments: list[str]) -> None:
    """Run the trials that the folder does not have yet, `n_jobs` at a time, and write the best to its folder.

    Args:
        sweeper: Set up by Hydra.
        arguments: The command line's overrides: what sweeps is searched, but for `seed`, which is averaged over.

    Raises:
        UserError: If an option is wrong.
    """
    folder = Path(sweeper.config.hydra.sweep.dir)
    block: Any = OmegaConf.to_container(sweeper.config.sweep, resolve=True)
    if not hasattr(sweeper.launcher, "planned"):
        raise UserError(
            "a search needs a launcher of normzoo's: leave hydra/launcher out, or choose joblib, ray or submitit"
        )
    fixed, space, seeds = _parse(sweeper, arguments)
    study = _study(sweeper, space, sweep_options(block).prune)
    told = [] if sweeper.storage else _earlier(folder)
    with warnings.catch_warnings():  # older Optunas call it experimental
        warnings.simplefilter("ignore")
        for params in [*told, *(point for point in sweeper.points if point not in told)]:
            study.enqueue_trial(params)
    if told:
        log.info("resumes a search of %s", counted(len(told), "trial"))
    done: list[Asked] = []
    while len(done) < sweeper.n_trials:
        asked = [Asked(study.ask()) for _ in range(min(sweeper.n_jobs, sweeper.n_trials - len(done)))]
        for one in asked:
            for name, override in space.items():
                try:
                    _suggest(one.trial, name, override)
                except ValueError as error:
                    raise UserError(
                        f"{override.input_line}: the search in {folder} has tried another value ({error}); choose "
                        f"another hydra.sweep.dir, or remove {folder / TRIALS}"
                    ) from error
            if sweeper.custom_search_space:
                get_method(sweeper.custom_search_space)(sweeper.config, one.trial)
        drawn = [dict(one.trial.params) for one in asked]
        told[len(done) : len(done) + len(drawn)] = drawn
        write_atomic(folder / TRIALS, json.dumps(told, indent=1))
        chosen = [[f"{name}={value}" for name, value in params.items()] for params in drawn]
        jobs = [[*fixed, *one, *seed] for one in chosen for seed in seeds]
        with _watching(sweeper, asked, len(seeds)):
            sweeper.launcher.launch(jobs, initial_job_idx=len(done) * len(seeds))
        for one in asked:
            one.tell(study)
        done += asked
    _write_best(folder, study)


def _parse(
    sweeper: "OptunaSweeper", arguments: Sequence[str]
) -> tuple[list[str], dict[str, Override], list[list[str]]]:
    """Split the overrides into those of every cell, those to search, and the seeds to average over."""
    parser = OverridesParser.create(config_loader=cast(Any, GlobLoader(sweeper)))
    lines = [*(f"{key}={value}" for key, value in (sweeper.params or {}).items()), *arguments]
    parsed = {one.get_key_element(): one for one in parser.parse_overrides(lines)}
    space = {name: one for name, one in parsed.items() if one.is_sweep_override()}
    seeds: list[list[str]] = [[]]
    if "seed" in space and not space["seed"].is_interval_sweep():
        seeds = [[f"seed={seed}"] for seed in space.pop("seed").sweep_string_iterator()]
    fixed = [one.input_line or "" for name, one in parsed.items() if not one.is_sweep_override()]
    return fixed, space, seeds


def _suggest(trial: optuna.trial.Trial, name: str, override: Override) -> None:
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log_scale = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            trial.suggest_int(name, value.start, value.end, log=log_scale)
        else:
            trial.suggest_float(name, value.start, value.end, log=log_scale)
        return
    choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
    if isinstance(value, RangeSweep) and not value.shuffle and len(choices) > 1 and type(choices[0]) is int:
        trial.suggest_int(name, choices[0], choices[-1], step=choices[1] - choices[0])
    else:
        trial.suggest_categorical(name, choices)


def _study(sweeper: "OptunaSweeper", space: Mapping[str, Override], prune: str) -> optuna.study.Study:
    logging.getLogger("optuna").setLevel(logging.WARNING)
    if sweeper.unread.get("search_space"):
        raise UserError(
            "hydra.sweeper.search_space is not read; give the space as overrides, or in hydra.sweeper.params"
        )
    for name in ("n_trials", "n_jobs"):
        if type(getattr(sweeper, name)) is not int or getattr(sweeper, name) < 1:
            raise UserError(f"hydra.sweeper.{name}={getattr(sweeper, name)} must be a whole number, 1 or more")
    sampler = sweeper.sampler
    if callable(sampler):  # the grid's, which wants to know the values
        values = {}
        for name, one in space.items():
            if one.is_interval_sweep():
                raise UserError(
                    f"{one.input_line}: a grid has no intervals; choose hydra/sweeper/sampler=tpe or random"
                )
            values[name] = list(one.sweep_iterator(transformer=Transformer.encode))
        # Its points are enqueued: Optuna's own sampler of a grid works within `optimize` alone, and forgets on resume.
        sweeper.points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
        sweeper.n_trials = min(sweeper.n_trials, len(sweeper.points))
        sampler = optuna.samplers.RandomSampler()
    try:
        return optuna.create_study(
            storage=sweeper.storage, study_name=sweeper.study_name, sampler=sampler, direction=sweeper.direction,
            pruner=PRUNERS[prune](), load_if_exists=True,
        )  # fmt: skip
    except Exception as error:  # whatever a storage raises
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"hydra.sweeper.storage={sweeper.storage}: Optuna cannot open it ({why})") from error


@contextlib.contextmanager
def _watching(sweeper: "OptunaSweeper", asked: Sequence[Asked], seeds: int) -> Iterator[None]:
    """Take the cells of the trials from their plan, and prune while they run."""
    over = threading.Event()

    def planned(cells: Sequence[Cell | None]) -> None:
        for number, one in enumerate(asked):
            one.cells = list(cells[number * seeds : (number + 1) * seeds])

    def watch() -> None:
        while not over.wait(0.5):
            for one in asked:
                one.prune()

    sweeper.launcher.planned = planned
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _errors(cell: Cell) -> dict[Any, float]:
    """Return the error by epoch, so far or as recorded; of several validations in an epoch, the last."""
    result = cell.result()
    over = result is not None and result.status in ("ok", "pruned")
    curve = result.curve if over and result is not None else curve_so_far(cell.folder)
    if not over and cell.config.plain["trainer"].get("val_check_interval") not in (None, 1.0):
        curve = [point for point in curve if point["epoch"] != curve[-1]["epoch"]]  # others may follow in the last
    return {point["epoch"]: error for point in curve if (error := point.get("val_error_running")) is not None}


def _earlier(folder: Path) -> list[dict[str, Any]]:
    """Return the parameters of the trials that an earlier search in this folder has asked for."""
    try:
        return list(json.loads(read_file(folder / TRIALS)))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / TRIALS} cannot be read ({error}); remove it to search anew") from error


def _write_best(folder: Path, study: optuna.study.Study) -> None:
    pruned = sum(trial.state is TrialState.PRUNED for trial in study.trials)
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    best = study.best_trial
    found = {"name": "optuna", "best_params": best.params, "best_value": best.value}
    write_atomic(folder / BEST, OmegaConf.to_yaml(OmegaConf.create(found)))
    log.info(
        "best of %s%s: error %.2f %% at %s", counted(len(complete), "trial"), f" ({pruned} more pruned)" * bool(pruned),
        best.value, " ".join(f"{name}={value}" for name, value in best.params.items()),
    )  # fmt: skip
