"""A search for the lowest validation error by Optuna, which cells that cannot be or that die never end."""

import importlib.util
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from normzoo.report import report
from normzoo.results import read_results
from normzoo.training.callbacks import CURVE, STOP
from normzoo.training.cell import run_cell

Cli = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None
    or importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="needs normzoo[optuna]",
)

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "hydra.sweep.dir=s", "hydra/sweeper=optuna")


@pytest.fixture(autouse=True)
def _optuna_logs_to_no_closed_stream() -> Iterator[None]:
    """Its handler writes to the standard error of the test that imported it."""
    yield
    logging.getLogger("optuna").handlers.clear()


def test_a_search_of_which_every_cell_is_refused(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli(
        "train", "-m", *tiny, *SHORT, "norm=instance_norm", "norm.eps=choice(0.1,0.2)", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=2", "hydra.job.chdir=true",
    )  # fmt: skip
    assert code == 2, out + err
    assert "every cell was refused" in err
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_a_search_outlives_refused_and_impossible_cells_and_repeated_points(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    # Instance norm is refused, batch norm has no num_groups, and six trials of four points must repeat some.
    code, out, err = cli(
        "train", "-m", *tiny, *SHORT, "norm=group_norm,instance_norm,batch_norm", "+norm.num_groups=choice(1,2)",
        "hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=8", "hydra.sweeper.sampler.seed=1",
    )  # fmt: skip
    assert code == 0, out + err
    assert "Traceback" not in out + err
    results, _ = read_results(tmp_path / "s")
    assert "refused" in {result.status for result in results}
    ok = {result.config["norm"]["num_groups"]: result for result in results if result.status == "ok"}
    assert set(ok) <= {1, 2}
    best = yaml.safe_load((tmp_path / "s" / "optimization_results.yaml").read_text())
    assert best["best_params"]["norm"] == "group_norm"
    assert best["best_value"] == min(result.metrics["val_error_running"] for result in ok.values())
    assert re.search(r"refused: .*norm=batch_norm", out), out


def found(folder: Path) -> Any:
    return yaml.safe_load((folder / "optimization_results.yaml").read_text())


@pytest.mark.slow
def test_a_search_averages_over_seeds_and_is_resumed_from_its_folder(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    command = ("train", "-m", *tiny, *SHORT, "norm=group_norm", "norm.num_groups=choice(1,2,4,8)", "seed=0,1",
               "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=1")  # fmt: skip
    code, out, err = cli(*command, "hydra.sweeper.n_trials=2")
    assert code == 0, out + err
    before, _ = read_results(tmp_path / "s")
    by_groups: dict[int, list[float]] = {}
    for result in before:
        by_groups.setdefault(result.config["norm"]["num_groups"], []).append(result.metrics["val_error_running"] or 0.0)
    assert all(len(errors) == 2 for errors in by_groups.values())
    assert found(tmp_path / "s")["best_value"] == min(map(fmean, by_groups.values()))

    code, out, err = cli(*command, "hydra.sweeper.n_trials=4")
    assert code == 0, out + err
    assert "resumes a search of 2 trials" in out
    after = {result.cell: result.time for result in read_results(tmp_path / "s")[0]}
    assert all(after[result.cell] == result.time for result in before)
    assert len(json.loads((tmp_path / "s" / "trials.json").read_text())) == 4


@pytest.mark.slow
def test_a_search_of_a_grid_tries_each_point_once_also_when_resumed(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    command = ("train", "-m", *tiny, *SHORT, "hydra/sweeper/sampler=grid", "norm=group_norm,layer_norm",
               "optimizer.base_lr=choice(0.1,0.2)", "hydra.sweeper.n_jobs=1")  # fmt: skip
    for trials in (3, 20):
        code, out, err = cli(*command, f"hydra.sweeper.n_trials={trials}")
        assert code == 0, out + err
        assert len(read_results(tmp_path / "s")[0]) == min(trials, 4)
    assert len(json.loads((tmp_path / "s" / "trials.json").read_text())) == 4
    code, _, err = cli(*command[:-3], "norm=batch_norm,rms_norm", *command[-2:])
    assert code == 2
    assert "has tried another value" in err


@pytest.mark.slow
def test_a_trial_that_does_worse_is_pruned(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    from normzoo.sweep import search

    monkeypatch.setitem(search.PRUNERS, "median", lambda: optuna.pruners.MedianPruner(n_startup_trials=1))
    (tmp_path / "s").mkdir()
    trials = [{"optimizer.base_lr": 0.1}, {"optimizer.base_lr": 0}]  # the order of the first two trials
    (tmp_path / "s" / "trials.json").write_text(json.dumps(trials))
    code, out, err = cli(
        "train", "-m", *tiny, "hydra.sweep.dir=s", "hydra/sweeper=optuna", "sweep.prune=median", "norm=group_norm",
        "norm.num_groups=4", "optimizer.base_lr=choice(0,0.1)", "trainer.max_epochs=60", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
    )  # fmt: skip
    assert code == 0, out + err
    good, bad = sorted(read_results(tmp_path / "s")[0], key=lambda result: result.status)
    assert (good.status, bad.status) == ("ok", "pruned")
    assert len(bad.curve) < 60
    assert "1 pruned" in out
    assert found(tmp_path / "s")["best_params"] == {"optimizer.base_lr": 0.1}


def test_a_cell_that_a_search_has_told_to_end_is_pruned(config: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    folder.mkdir()
    (folder / STOP).write_text("pruned")
    result = run_cell(config(), folder)
    assert result is not None
    assert (result.status, len(result.curve), result.metrics["stopped_epoch"]) == ("pruned", 1, 1)
    assert "stopped after epoch 1 of 2" in str(result.reason)
    assert not (folder / STOP).exists()
    assert "Pruned cells" in report(tmp_path).summary.read_text()


def test_a_pruner_sees_the_mean_over_seeds_of_each_epoch(tmp_path: Path) -> None:
    import optuna

    from normzoo.sweep.search import Asked

    def cells(*curves: list[float]) -> list[Any]:
        folders = [tmp_path / f"{number}-{curve}" for number, curve in enumerate(curves)]
        for folder, curve in zip(folders, curves, strict=True):
            folder.mkdir()
            points = [{"epoch": epoch, "val_error_running": error} for epoch, error in enumerate(curve, start=1)]
            (folder / CURVE).write_text(json.dumps(points))
        config = SimpleNamespace(plain={"trainer": {}})
        return [SimpleNamespace(folder=folder, runs=True, result=lambda **_: None, config=config) for folder in folders]

    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0))
    first, second = (Asked(study.ask(), cells(*curves)) for curves in ([[50, 20], [70, 30]], [[60, 90], [80]]))
    first.prune()
    study.tell(first.trial, 25.0)
    assert study.trials[0].intermediate_values == {1: 60, 2: 25}
    second.prune()
    assert study.trials[1].intermediate_values == {1: 70}
    assert all((cell.folder / STOP).exists() for cell in second.cells if cell)
    assert not any((cell.folder / STOP).exists() for cell in first.cells if cell)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("hydra.sweeper.n_trials=0", r"hydra\.sweeper\.n_trials=0 must be a whole number"),
        ("hydra/launcher=basic", "a search needs a launcher of normzoo's"),
        ("hydra.sweeper.storage=nowhere://x", r"hydra\.sweeper\.storage=nowhere://x: Optuna cannot open it"),
    ],
)
def test_a_wrong_option_of_a_search(cli: Cli, tiny: tuple[str, ...], option: str, said: str) -> None:
    code, _, err = cli("train", "-m", *tiny, *SHORT, "seed=choice(0,1)", option)
    assert code == 2, err
    assert re.search(said, err), err
    assert "Traceback" not in err


def test_a_grid_prunes_nothing(cli: Cli, tiny: tuple[str, ...]) -> None:
    code, _, err = cli("train", "-m", *tiny, "seed=0,1", "sweep.prune=median")
    assert code == 2
    assert "sweep.prune=median ends trials of a search: add hydra/sweeper=optuna" in err
