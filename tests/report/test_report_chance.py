"""Nets that only guess, or a best learning rate at the edge of those tried: nothing can be told of these."""

import itertools
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import normzoo.conf
from normzoo.claims import known_claims
from normzoo.claims._checks import Outcome, kept_low
from normzoo.claims.bn_algorithm import _STATEMENTS
from normzoo.report import report
from normzoo.report.checks import at_edge, guessing, learned, none_learned, run_checks
from normzoo.report.frame import build_table
from normzoo.report.series import Stat
from normzoo.report.sweep_axes import best
from normzoo.results import CellResult
from tests.report.made_up import on_records

Maker = Callable[..., CellResult]
CONF = Path(str(normzoo.conf.__path__[0]))


MEASURED = (
    *(name for names in _STATEMENTS.values() for name in names),
    *("covariate_shift", "covariate_shift_cosine", "activation_drift", "train_loss", "train_error"),
    *("statistic_noise_mean", "channel_correlation", "surface_rise", "error_mean", "error_worst", "error_all"),
    *("error_none", *(f"error_{method}_{n}" for method in ("adabn", "blend", "tent") for n in (1, 256))),
    *("landscape_loss_range", "landscape_gradient_distance", "landscape_beta_max"),
)


def in_group(group: str, name: str) -> dict[str, Any]:
    file = CONF / group / f"{name}.yaml"
    found: Any = OmegaConf.to_container(OmegaConf.load(file)) if file.exists() else {}
    return {"name": name, **{key: value for key, value in found.items() if key not in ("name", "defaults")}}


def cells_of(claim: str) -> Iterator[dict[str, Any]]:
    """The configurations of a claim's quick grids, or near enough, without composing each."""
    whole: Any = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{claim}.yaml"))
    base = OmegaConf.create({"norm": {"name": "batch_norm"}, "placement": {"name": "pre_act"}})
    groups = {"data": "mnist5k", "model": "plain_cnn", "optimizer": "sgd", "trainer": "default"}
    for entry in whole["defaults"]:
        if isinstance(entry, dict):
            groups |= {key.removeprefix("override /"): str(name) for key, name in entry.items()}
    for group, name in groups.items():
        base[group] = in_group(group, name)
    kept = {key: value for key, value in whole.items() if key not in ("defaults", "claim", "hydra")}
    base = OmegaConf.merge(base, kept)
    for grid in whole["claim"]["quick"]:
        axes = [[(key, value) for value in re.split(r",(?![^\[]*\])", str(values))] for key, values in grid.items()]
        for overrides in itertools.product(*axes):
            config = base.copy()
            for key, text in overrides:
                value: Any = OmegaConf.create(f"v: {text}").v
                if (CONF / key).is_dir():  # a list is one of probes, which stand under their names
                    value = {name: in_group(key, name) for name in value} if text[0] == "[" else in_group(key, text)
                OmegaConf.update(config, key, value, merge=False)
            container: Any = OmegaConf.to_container(config, resolve=False)
            yield container


def records(claim: str, error: float) -> list[CellResult]:
    point: dict[str, float | None] = {"epoch": 1, "step": 10, "val_loss": 2.3, "val_error_running": error}
    return [
        CellResult(
            cell=str(i), status="ok", config=config, seed=int(config.get("seed", 0)), curve=[point, point],
            metrics={
                **{name: error if "error" in name else 0.5 for name in MEASURED},
                "val_error_running": error, "val_error_population": error, "val_error_batch": error,
            },
        )
        for i, config in enumerate(cells_of(claim))
        if config.get("study", {}).get("name") != "normalizers"  # which trains no net
    ]  # fmt: skip


@pytest.mark.parametrize("claim", known_claims())
def test_no_claim_is_judged_on_nets_that_guess(claim: str) -> None:
    judge = on_records(import_module(f"normzoo.claims.{claim}")).judge
    finding = judge(records(claim, 89.5))
    assert [check.text for check in finding.checks if check.holds is not None] == []
    told = [check for check in finding.checks if check.untold]
    # Of activations the claims take what probes recorded, and nothing is recorded here.
    assert finding.verdict == ("not measured" if claim in ("dying_relu", "saturation") else "cannot be told")
    assert all("none of these nets has learned: guessing has an error of 90 %" in check.measured for check in told)
    assert not any("has learned" in check.measured for check in judge(records(claim, 20.0)).checks)


@pytest.mark.parametrize(("classes", "error", "expected"), [
    (10, 90.0, False), (10, 92.0, False), (10, 86.0, False), (10, 80.0, True), (2, 50.0, False), (2, 47.0, False),
    (2, 40.0, True), (100, 99.0, False), (100, 95.0, True), (1000, 99.9, False), (1000, 97.0, True),
])  # fmt: skip
def test_chance_is_that_of_the_classes_recorded(classes: int, error: float, expected: bool, cell: Maker) -> None:
    recorded = cell(error=error, config={"data": {"name": "own", "num_classes": classes}})
    measured = cell(error=error, config={"data": {"name": "own"}})
    measured.metrics["num_classes"] = float(classes)
    for one in (recorded, measured):
        one.metrics = {**one.metrics, "val_error_population": error, "val_error_batch": error}
        one.curve = []
        assert guessing(one) == pytest.approx(100 - 100 / classes)
        assert learned(one) is expected
        assert bool(none_learned([one])) is not expected
    assert learned(cell(error=error, config={"data": {"name": "own"}})) is None


def test_who_has_learned(cell: Maker) -> None:
    dead, diverged, fine = cell(error=90.0), cell(status="diverged"), cell(error=10.0)
    assert none_learned([dead, diverged])
    assert none_learned([dead, cell(status="killed")])
    assert not none_learned([dead, fine])
    assert not none_learned([cell(status="killed")])
    assert not none_learned([])
    dead.metrics["val_error_batch"] = 20.0  # with statistics of its own it works
    assert not none_learned([dead])


@pytest.mark.parametrize("norm", ["batch_norm", "group_norm"])
@pytest.mark.parametrize(("small", "large"), [(90.0, 90.0), (89.0, 91.0), (None, 90.0)])
def test_the_checks_of_a_report_cannot_be_told_at_chance(
    norm: str, small: float | None, large: float, cell: Maker
) -> None:
    cells = [
        cell(norm, batch, seed, error, status="ok" if error else "diverged")
        for batch, error in ((2, small), (32, large))
        for seed in (0, 1)
    ]
    (check,) = run_checks(build_table(cells))
    assert check.verdict == "cannot be told"
    assert check.measured.startswith("none of these nets has learned: guessing has an error of 90 %; ")


def test_what_is_kept_low_cannot_be_told_at_chance(cell: Maker) -> None:
    arms = [Outcome(Stat(share, None, (share,)), cells=[cell(error=90.0)]) for share in (50.0, 1.0)]
    check = kept_low("dead", *arms, 5.0, 5.0)
    assert check.holds is None
    assert check.untold


def test_a_fall_over_larger_maps_cannot_be_told_at_chance(cell: Maker) -> None:
    groups = [cell("ghost_batch_norm", 64, 0, 91.0 - i, group_size=2**i, image_size=16) for i in range(1, 5)]
    (check,) = run_checks(build_table(groups))
    assert check.verdict == "cannot be told"


@pytest.mark.parametrize(
    ("rate", "tried", "told"),
    [(1, (0.1, 1), 1), (0.1, (0.1, 1), 1), (0.5, (0.1, 0.5, 1), 0), (1, (1,), 0), (None, (), 0)],
)
def test_a_best_rate_at_the_edge(rate: float | None, tried: tuple[float, ...], told: int) -> None:
    assert bool(at_edge(rate, tried)) == told


def test_the_best_of_a_report_says_what_speaks_against_it(
    cell: Maker, sweep: Callable[[list[CellResult]], Path]
) -> None:
    def swept(*errors: float) -> list[CellResult]:
        return [
            cell(norm, error=error + i, config={"optimizer": {"base_lr": 0.1 * 2**rate}})
            for i, norm in enumerate(("batch_norm", "identity"))
            for rate, error in enumerate(errors)
        ]

    for errors, against in (
        ((9.0, 5.0, 8.0), ""),
        ((5.0, 8.0, 9.0), "the best learning rate, 0.1, is at the edge of those tried"),
        ((90.0, 88.0, 90.0), "none of these nets has learned: guessing has an error of 90 %"),
    ):
        found = best(build_table(swept(*errors)))
        assert found is not None
        assert found[2] == against
    made = report(sweep(swept(5.0, 8.0, 9.0)), width=300)
    assert "%; the best learning rate, 0.1, is at" in made.text
    assert "(1 seed); the best learning rate, 0.1, is at" in made.summary.read_text()
