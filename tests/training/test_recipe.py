"""Recipes: ingredients relative to the other groups, each switched by an override, in the record as what results."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from normzoo.errors import UserError
from normzoo.identity import cell_id
from normzoo.sweep import local_launcher as multirun
from normzoo.training.config import parse
from normzoo.training.config_keys import apply_recipe
from normzoo.training.instantiate import build_optimizer, schedule

Compose = Callable[..., dict[str, Any]]

INCEPTION = (
    "model=inception_small",
    "model.local_response_norm=true",
    "model.dropout=0.4",
    "data.distortion=0.8",
    "data.order=fixed",
    "optimizer.schedule=exponential",
)


def test_the_accelerated_recipe_changes_what_the_paper_changes(config: Compose) -> None:
    before = config(*INCEPTION)
    after = apply_recipe(config(*INCEPTION, "recipe=bn_accelerated"))
    assert after["optimizer"]["base_lr"] == pytest.approx(5 * before["optimizer"]["base_lr"])
    assert after["optimizer"]["weight_decay"] == pytest.approx(before["optimizer"]["weight_decay"] / 5)
    assert after["optimizer"]["decay_every"] == pytest.approx(before["optimizer"]["decay_every"] / 6)
    assert (after["model"]["dropout"], after["model"]["local_response_norm"]) == (0, False)
    assert (after["data"]["distortion"], after["data"]["order"]) == (0.4, "shuffled")
    changed = {"optimizer", "model", "data", "recipe"}
    assert {key: after[key] for key in after if key not in changed} == {
        key: before[key] for key in before if key not in changed
    }


@pytest.mark.parametrize(
    ("switch", "group", "key"),
    [
        ("recipe.lr=1", "optimizer", "base_lr"),
        ("recipe.weight_decay=1", "optimizer", "weight_decay"),
        ("recipe.decay=1", "optimizer", "decay_every"),
        ("recipe.dropout=1", "model", "dropout"),
        ("recipe.local_response_norm=true", "model", "local_response_norm"),
        ("recipe.distortion=1", "data", "distortion"),
        ("recipe.shuffle=false", "data", "order"),
    ],
)
def test_each_ingredient_is_switched_off_by_one_override(config: Compose, switch: str, group: str, key: str) -> None:
    before, with_all = config(*INCEPTION), apply_recipe(config(*INCEPTION, "recipe=bn_accelerated"))
    without = apply_recipe(config(*INCEPTION, "recipe=bn_accelerated", switch))
    assert without[group][key] == before[group][key] != with_all[group][key]
    without[group][key] = with_all[group][key]
    assert cell_id(without) == cell_id(with_all)


def test_no_recipe_changes_nothing_and_names_the_same_cell(config: Compose) -> None:
    plain = config(*INCEPTION)
    applied = apply_recipe(plain)
    assert {**applied, "recipe": None} == {**plain, "recipe": None}
    assert cell_id(applied) == cell_id(plain)
    without = {key: value for key, value in plain.items() if key != "recipe"}
    assert apply_recipe(without) == without
    assert cell_id(without) == cell_id(plain)


def test_it_is_applied_once_and_leaves_its_input_alone(config: Compose) -> None:
    plain = config(*INCEPTION, "recipe=bn_accelerated")
    kept = json.loads(json.dumps(plain))
    once = apply_recipe(plain)
    assert plain == kept
    assert apply_recipe(once) == once
    assert once["recipe"]["name"] == "bn_accelerated"
    assert once["recipe"]["applied"]["lr"] == 5


def test_a_cell_by_a_recipe_is_the_cell_with_its_values(config: Compose) -> None:
    by_recipe = apply_recipe(config("recipe=none", "recipe.lr=2"))
    by_hand = config("optimizer.base_lr=0.1")
    assert cell_id(by_recipe) == cell_id(by_hand)


def test_what_is_not_there_needs_no_taking_out(config: Compose) -> None:
    resnet = apply_recipe(config("model=resnet8", "optimizer.schedule=exponential", "recipe=bn_accelerated"))
    assert "dropout" not in resnet["model"]
    assert "local_response_norm" not in resnet["model"]
    assert resnet["data"]["distortion"] == 0


def test_shuffling_takes_the_place_of_batches_by_class(config: Compose) -> None:
    data = apply_recipe(config("data.order=by_class", "data.classes_per_batch=2", "recipe.shuffle=true"))["data"]
    assert (data["order"], data["classes_per_batch"]) == ("shuffled", None)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("recipe.lr=0",), "recipe.lr=0 must be a positive factor"),
        (("recipe.dropout=-1",), "recipe.dropout=-1 must be a factor"),
        (("recipe.lr=fast",), "recipe.lr='fast' must be"),
        (("recipe.shuffle=2",), "recipe.shuffle=2 must be true or false"),
        (("+recipe.luck=2",), r"recipe has \['luck'\]: it takes lr, weight_decay"),
    ],
)
def test_bad_ingredients(config: Compose, overrides: tuple[str, ...], text: str) -> None:
    with pytest.raises(UserError, match=text):
        apply_recipe(config(*overrides))


@pytest.mark.parametrize("overrides", [(), ("~optimizer.decay_every",)])
def test_a_schedule_that_cannot_decay_faster_makes_another_cell_that_is_refused(
    config: Compose, overrides: tuple[str, ...]
) -> None:
    plain, faster = (apply_recipe(config(*overrides, recipe)) for recipe in ("recipe=none", "recipe.decay=6"))
    assert cell_id(plain) != cell_id(faster)
    assert parse(plain).invalid is None
    assert parse(config("optimizer.schedule=exponential", "recipe.decay=6")).invalid is None
    needs = parse(faster).invalid
    assert re.match(r"recipe.decay=6 needs .* optimizer.schedule is cosine: set optimizer", needs or "")


def test_an_exponential_schedule(config: Compose) -> None:
    halved = schedule(parse(config("optimizer.schedule=exponential")).optimizer, 100)
    assert [halved(step) for step in (0, 25, 50, 100)] == pytest.approx([1, 0.5**0.5, 0.5, 0.25])
    faster = schedule(parse(config("optimizer.schedule=exponential", "recipe.decay=2")).optimizer, 100)
    assert faster(25) == pytest.approx(0.5)
    build_optimizer(parse(config("optimizer.schedule=exponential")), [torch.nn.Parameter(torch.zeros(1))])
    for option in ("decay_rate", "decay_every"):
        invalid = parse(config("optimizer.schedule=exponential", f"optimizer.{option}=0")).invalid
        assert f"optimizer.{option}=0 must be a positive number" in (invalid or "")
    assert parse(config("optimizer.decay_rate=0")).invalid is None


def test_a_sweep_over_recipes_records_what_they_made(
    cli: Callable[..., tuple[int, str, str]], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    code, _, err = cli(
        "train", "-m", *tiny, "model=lenet5", "data.image_size=28", "model.dropout=0.5", "trainer.max_epochs=1",
        "optimizer.schedule=exponential", "recipe=none,bn_accelerated", "hydra.sweep.dir=here",
    )  # fmt: skip
    assert code == 0, err
    records = [json.loads(path.read_text()) for path in tmp_path.glob("here/*/result.json")]
    found = {
        record["config"]["recipe"]["name"]: (
            record["status"],
            record["config"]["model"]["dropout"],
            record["config"]["optimizer"]["base_lr"],
            round(record["metrics"]["lr"], 6),
        )
        for record in records
    }
    assert found == {"none": ("ok", 0.5, 0.05, 0.0125), "bn_accelerated": ("ok", 0, 0.25, 0.0625)}
    assert all(path.parent.name == json.loads(path.read_text())["cell"] for path in tmp_path.glob("here/*/result.json"))


@pytest.mark.slow
def test_a_recipe_that_cannot_be_refuses_its_cell_alone(
    cli: Callable[..., tuple[int, str, str]], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    short = (*tiny, "trainer.max_epochs=1", "trainer.limit_train_batches=1")
    code, out, err = cli("train", "-m", *short, "recipe=none,bn_accelerated", "hydra.sweep.dir=here")
    assert code == 0, out + err
    assert "refused: recipe=bn_accelerated: recipe.decay=6.0 needs" in out
    records = [json.loads(path.read_text()) for path in tmp_path.glob("here/*/result.json")]
    assert {record["config"]["recipe"]["name"]: record["status"] for record in records} == {
        "none": "ok",
        "bn_accelerated": "refused",
    }
    code, _, err = cli("train", *short, "recipe=bn_accelerated", "hydra.run.dir=alone")
    assert code == 2
    assert err.count("\n") == 1
    assert "recipe.decay=6.0 needs" in err


def test_a_search_goes_on_without_a_recipe_that_is_wrong(
    cli: Callable[..., tuple[int, str, str]], tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    planned = multirun.plan

    def plan(*arguments: Any) -> Any:
        found = planned(*arguments)
        asked.extend(found.asked)
        return found

    monkeypatch.setattr("normzoo.sweep.plan.searches", lambda config: True)
    monkeypatch.setattr(multirun, "plan", plan)
    short = (*tiny, "trainer.max_epochs=1", "trainer.limit_train_batches=1")
    code, out, err = cli("train", "-m", *short, "recipe.lr=0,1", "hydra.sweep.dir=here")
    assert code == 0, out + err
    assert "recipe.lr=0: recipe.lr=0 must be a positive factor" in out
    assert [math.isinf(multirun._job_return(cell).return_value) for cell in asked] == [True, False]
