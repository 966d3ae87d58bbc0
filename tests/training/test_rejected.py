"""A cell that cannot be is refused by name; its sweep runs the others, and leaves nothing where there are none."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normzoo.results import read_result, read_results
from normzoo.sweep.cell import BATCHES_TO_START, Cell
from normzoo.sweep.compose import Composition
from normzoo.sweep.precheck import Precheck
from normzoo.training.config import parse

Compose = Callable[..., dict[str, Any]]
Cli = Callable[..., tuple[int, str, str]]

WRONG = [
    ("seed", -1), ("seed", 0.5), ("trainer.max_epochs", 0), ("trainer.max_epochs", None), ("trainer.max_epochs", 1.5),
    ("trainer.threads", 0), ("trainer.check_val_every_n_epoch", 0), ("trainer.limit_train_batches", 0),
    ("trainer.limit_train_batches", 1.5), ("trainer.limit_val_batches", -1), ("trainer.gradient_clip_val", -1),
    ("optimizer.base_batch", 0), ("optimizer.momentum", 2), ("optimizer.momentum", 1), ("optimizer.warmup", 2),
    ("evaluation.train_samples", 0), ("evaluation.population_samples", -3),
    ("optimizer.base_lr", -1), ("optimizer.base_lr", True), ("trainer.max_steps", None), ("trainer.max_steps", "x"),
]  # fmt: skip
RIGHT = [
    ("seed", 0), ("trainer.limit_train_batches", 3), ("trainer.limit_val_batches", 0), ("optimizer.momentum", 0),
    ("trainer.limit_train_batches", None), ("trainer.limit_val_batches", None), ("trainer.gradient_clip_val", None),
    ("trainer.gradient_clip_val", 0.5), ("optimizer.warmup", 1),
    ("trainer.limit_val_batches", 0.0), ("evaluation.train_samples", None), ("evaluation.population_samples", None),
    ("trainer.max_steps", -1), ("optimizer.base_lr", 0),
]  # fmt: skip


def changed(config: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    group, _, key = name.rpartition(".")
    return {**config, group: {**config[group], key: value}} if group else {**config, key: value}


def invalid(config: dict[str, Any], name: str, value: Any) -> str:
    return parse(changed(config, name, value)).invalid or ""


def test_numbers_out_of_range(config: Compose) -> None:
    whole = config()
    for name, value in WRONG:
        assert invalid(whole, name, value).startswith(f"{name}={value} must be ")
    for name, value in RIGHT:
        assert not invalid(whole, name, value)
    for epochs in (None, -1):
        by_steps = changed(whole, "trainer.max_epochs", epochs)
        assert not invalid(by_steps, "trainer.max_steps", 5)
        assert invalid(by_steps, "trainer.max_steps", None).startswith("trainer.max_steps=None must be ")


@pytest.mark.parametrize(
    ("trainer", "batches"),
    [
        ({"max_epochs": 3}, 30), ({"max_epochs": None, "max_steps": 7}, 7), ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 3, "max_steps": 7, "accumulate_grad_batches": 2}, 14),
        ({"max_epochs": 3, "max_steps": 70}, 30), ({"max_epochs": 3, "max_steps": -1}, 30),
    ],
)  # fmt: skip
def test_what_a_cell_costs(config: Compose, tmp_path: Path, trainer: dict[str, Any], batches: int) -> None:
    whole = config("batch_size_per_device=8")
    cell = Cell(Composition(b""), parse({**whole, "trainer": {**whole["trainer"], **trainer}}), tmp_path, num_train=80)
    assert cell.cost == batches + BATCHES_TO_START


def test_names_that_lightning_does_not_know(config: Compose) -> None:
    whole = config()
    for name, value, meant in (
        ("precision", "bf16-mixd", "did you mean bf16-mixed"), ("precision", 8, "choose one of 16, 16-mixed"),
        ("strategy", "dpp", "did you mean ddp"), ("strategy", "quantum", "choose one of auto, "),
    ):  # fmt: skip
        said = invalid(whole, f"trainer.{name}", value)
        assert said.startswith(f"trainer.{name}={value} is unknown to Lightning; {meant}")
    for name, value in (("precision", 16), ("precision", "bf16"), ("strategy", "ddp_find_unused_parameters_true")):
        assert not invalid(whole, f"trainer.{name}", value)


def test_a_limit_of_null_is_none(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    code, out, err = cli(
        "train", *tiny, "trainer.max_epochs=1", "trainer.limit_train_batches=null", "trainer.limit_val_batches=null",
        "data.drop_last=false", "data.train_size=90", "logger=csv", "hydra.run.dir=one",
    )  # fmt: skip
    assert code == 0, err
    assert "log_every_n_steps" not in out + err + "".join(str(one.message) for one in recwarn)
    assert read_result(tmp_path / "one").metrics["steps"] == 12


def test_all_of_an_evaluation_and_an_end_by_steps(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, _, err = cli(
        "train", *tiny, "evaluation.train_samples=null", "evaluation.population_samples=null",
        "trainer.max_epochs=null", "+trainer.max_steps=5", "hydra.run.dir=steps",
    )  # fmt: skip
    assert (code, read_result(tmp_path / "steps").metrics["steps"]) == (0, 5), err


def test_what_is_wrong_in_itself_refuses_its_cell(config: Compose) -> None:
    whole, precheck = config(), Precheck(devices_here=False)
    for name, value in [*WRONG, ("batch_size_per_device", 0), ("data.train_size", 0)]:
        refused = precheck.of(parse(changed(whole, name, value)))[0]
        assert refused is not None
        assert name.rpartition(".")[2] in refused
    missing = changed(whole, "data", {**config("data=cifar10")["data"], "root": "/nowhere"})
    for _ in range(2):  # it is not looked for again
        assert "cifar10 is not on this machine" in (precheck.of(parse(missing))[0] or "")
    assert precheck.of(parse(whole))[0] is None


def test_a_sweep_runs_the_other_cells(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli(
        "train", "-m", *tiny, "optimizer.base_lr=-1,0.05", "sweep.dry_run=true", "hydra.sweep.dir=s",
    )  # fmt: skip
    assert code == 0, err
    assert "refused: optimizer.base_lr=-1: optimizer.base_lr=-1 must be a number" in out
    assert "2 cells: 1 to run" in out
    assert not (tmp_path / "s").exists()


def test_a_seed_that_is_none_is_recorded_as_refused(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli("train", "-m", *tiny, "trainer.max_epochs=1", "seed=1,0.5", "hydra.sweep.dir=s")
    assert code == 0, err
    assert "refused: seed=0.5: seed=0.5 must be a whole number" in out
    found = {record.config["seed"]: record.status for record in read_results(tmp_path / "s")[0]}
    assert found == {1: "ok", 0.5: "refused"}
    with open(tmp_path / "s" / "results.csv", newline="") as stream:
        assert {row["seed"]: row["status"] for row in csv.DictReader(stream)} == {"1": "ok", "0.5": "refused"}
    assert "1 seed (1)" in (tmp_path / "s" / "summary.md").read_text()
    code, _, err = cli("train", *tiny, "seed=0.5", "hydra.run.dir=alone")
    assert (code, "error: seed=0.5 must be" in err) == (2, True)
    assert read_result(tmp_path / "alone").status == "refused"


def test_a_study_is_refused_alone_as_in_a_sweep(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("train", "experiment=bn_algorithm", "trainer.threads=0", "hydra.run.dir=one")
    assert code == 2
    assert err.endswith("error: trainer.threads=0 must be a whole number, 1 or more\n")
    assert read_result(tmp_path / "one").status == "refused"


def test_a_recipe_that_is_none_refuses_its_cell(cli: Cli, tiny: tuple[str, ...]) -> None:
    recipes = ("recipe=bn_accelerated", "recipe.lr=-1,5", "optimizer.schedule=exponential")
    code, out, err = cli("train", "-m", *tiny, *recipes, "sweep.dry_run=true", "hydra.sweep.dir=s")
    assert code == 0, err
    assert "recipe.lr=-1 must be a positive factor" in out
    assert "2 cells: 1 to run" in out


def test_a_sweep_without_a_cell_that_can_be_leaves_no_folder(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli("train", "-m", *tiny, "norm=batch_norm,group_norm", "optimizer.base_lr=-1", "seed=0")
    assert code == 2
    assert err == "error: none of the 2 cells can run: optimizer.base_lr=-1 must be a number, 0 or more\n"
    assert "refused" not in out  # said once
    assert not list(tmp_path.iterdir())
