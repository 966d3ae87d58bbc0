"""The verdict on faster training, from made-up records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from normzoo.claims import faster_training
from normzoo.claims._cells import frame
from normzoo.claims.faster_training import ARMS, LENET_NORMS, PLAIN
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

judge, draw = on_records(faster_training).judge, on_records(faster_training).draw

Errors = tuple[float, ...]  # at steps 10, 20, ...
PUBLISHED: Mapping[str, Errors] = {
    "Inception": (90, 80, 60, 40, 20, 10),
    "Inception, lr × 5": (90, 90, 90, 90, 90, 90),
    "BN-Baseline": (50, 20, 9, 8, 7, 7),
    "BN-x5": (20, 9, 8, 7, 6, 6),
    "BN-x30": (40, 8, 6, 5, 4, 4),
    "BN-x5-Sigmoid": (90, 70, 50, 40, 30, 20),
}
OTHERWISE: Mapping[str, Errors] = {
    "Inception": (50, 20, 9, 4, 3, 2),
    "Inception, lr × 5": (50, 20, 9, 4, 3, 2),
    "BN-Baseline": (90, 80, 60, 40, 20, 10),
    "BN-x5": (90, 90, 90, 90, 90, 90),
    "BN-x30": (90, 80, 60, 40, 30, 20),
    "BN-x5-Sigmoid": (90, 90, 90, 90, 90, 90),
}


def record(root: Path, norm: str, seed: int, errors: Errors, status: str = "ok", **config: Any) -> CellResult:
    curve = [{"step": 10.0 * i, "val_error_running": e + 0.1 * seed} for i, e in enumerate(errors, 1)]
    return made_up(root, norm=norm, seed=seed, curve=curve, status=status, metrics={"lr": 0.1}, **config)


def inception(root: Path, errors: Mapping[str, Errors], seeds: int = 3) -> list[CellResult]:
    return [
        record(
            root,
            arm.norm,
            seed,
            errors[arm.name],
            model={"name": "inception_small", "activation": "sigmoid" if arm.sigmoid else "relu"},
            recipe={"name": "bn_accelerated" if arm.lr > 1 else "none", "applied": {"lr": arm.lr}},
            optimizer={"name": "sgd", "base_lr": 0.1 * arm.lr},
        )
        for arm in ARMS
        if arm.name in errors
        for seed in range(seeds)
    ]


def lenet(root: Path, errors: Mapping[str, Errors]) -> list[CellResult]:
    model = {"name": "lenet5", "activation": "tanh"}
    return [record(root, norm, seed, e, model=model) for norm, e in errors.items() for seed in range(3)]


def reached(cells: list[CellResult], plain: list[CellResult]) -> str:
    return str(faster_training.reach(frame(cells), frame(plain)))


def changed(**errors: Errors) -> Mapping[str, Errors]:
    return {**PUBLISHED, **{name.replace("_", "-"): value for name, value in errors.items()}}


@pytest.mark.parametrize(
    ("errors", "holding"),
    [
        (PUBLISHED, [True] * 7),
        (OTHERWISE, [False] * 7),
        (changed(BN_Baseline=(50, 20, 20, 20, 9, 9)), [False, True, True, True, True, True, True]),  # not twice as fast
        (changed(BN_x30=(90, 90, 90, 90, 90, 90)), [True, True, False, True, False, True, True]),
        (changed(BN_x5_Sigmoid=(90, 90, 90, 90, 90, 60)), [True, True, True, True, True, False, True]),
    ],
)
def test_the_table_of_the_paper(tmp_path: Path, errors: Mapping[str, Errors], holding: list[bool]) -> None:
    finding = judge(inception(tmp_path, errors))
    assert [check.holds for check in finding.checks] == holding
    expected = {True: "holds", False: "does not hold here"}.get(holding[0]) if len(set(holding)) == 1 else None
    assert finding.verdict == (expected or "holds in part")


def test_steps_are_counted_to_the_plain_nets_best_of_the_same_seed(tmp_path: Path) -> None:
    records = inception(tmp_path, PUBLISHED)
    finding = judge(records)
    assert "Inception: 60 ± 0 steps, 89.9 ± 0.1 %" in finding.measured
    assert "BN-Baseline: 30 ± 0 steps, 92.9 ± 0.1 %" in finding.measured
    assert "BN-x5: 20 ± 0 steps" in finding.measured
    assert "Inception, lr × 5: never (3 seeds), 9.9 ± 0.1 %" in finding.measured
    assert "(3 seeds)" in finding.measured
    plain = [record(tmp_path, PLAIN, seed, (50, 10)) for seed in (0, 1)]
    fast = [record(tmp_path, "batch_norm", 0, (5, 4)), record(tmp_path, "batch_norm", 1, (50, 20))]
    assert reached(fast, plain) == "10 (never in 1 of 2 seeds)"
    assert reached([], plain) == "no such cells"


def test_a_higher_rate_that_diverges_without_batch_norm_is_what_is_claimed(tmp_path: Path) -> None:
    records = [r for r in inception(tmp_path, PUBLISHED) if r.config["recipe"]["name"] == "none"]
    model, recipe = {"name": "inception_small", "activation": "relu"}, {"name": "none", "applied": {"lr": 5}}
    records += [
        record(tmp_path, PLAIN, seed, (), "diverged", model=model, recipe=recipe, optimizer={"base_lr": 0.5})
        for seed in range(3)
    ]
    finding = judge(records)
    assert finding.checks[6].holds is True
    assert "3 diverged" in finding.checks[6].measured
    assert "Inception, lr × 5: never (3 seeds), no accuracy (3 diverged)" in finding.measured


@pytest.mark.parametrize("status", ["killed", "timeout"])
def test_cells_ended_from_outside_are_no_evidence(tmp_path: Path, status: str) -> None:
    records = inception(tmp_path, PUBLISHED)
    for arm, checks in (
        ("BN-x5-Sigmoid", [5]),
        ("Inception, lr × 5", [6]),
        ("BN-x5", [1]),
        ("Inception", [0, 1, 2, 3]),
    ):
        at = [known.name for known in ARMS].index(arm) * 3
        records[at].status = status
        found = [check.holds for check in judge(records).checks]
        assert [i for i, holds in enumerate(found) if holds is None] == checks
        assert False not in found
        records[at].status = "ok"
    short = [record(tmp_path, "batch_norm", 0, (80,), status)]
    assert reached(short, [record(tmp_path, PLAIN, 0, (50, 10))]) == "no such cells"
    assert reached([record(tmp_path, "batch_norm", 0, (80,))], [record(tmp_path, PLAIN, 0, (85,), status)]) == (
        "no such cells"
    )


def test_a_seed_that_diverges_is_not_faster(tmp_path: Path) -> None:
    records = inception(tmp_path, PUBLISHED)
    at = [known.name for known in ARMS].index("BN-x5") * 3
    records[at].status = "diverged"  # after it was as accurate as the plain net
    check = judge(records).checks[1]
    assert check.holds is False
    assert "20 ± 0 (1 diverged) against" in check.measured


def test_lenet_per_norm(tmp_path: Path) -> None:
    slow, fast = (50.0, 20.0, 10.0), (20.0, 10.0, 5.0)
    records = lenet(tmp_path, {PLAIN: slow, **dict.fromkeys(LENET_NORMS, fast), "instance_norm": (80.0, 70.0, 60.0)})
    finding = judge(records)
    assert [check.holds for check in finding.checks[7:]] == [True, True, True, False]
    assert "BatchNorm 20 ± 0" in finding.measured
    assert "InstanceNorm never (3 seeds)" in finding.measured


def test_missing_cells(tmp_path: Path) -> None:
    assert judge([]).verdict == "not measured"
    assert judge(inception(tmp_path, {"Inception": PUBLISHED["Inception"]})).verdict == "not measured"


def test_it_draws(tmp_path: Path) -> None:
    figure = Figure()
    draw(inception(tmp_path, PUBLISHED) + lenet(tmp_path, {PLAIN: (20, 10), "batch_norm": (10, 5)}), figure)
    left, right, below = figure.axes
    assert (len(left.lines), len(right.lines)) == (len(ARMS) + 1, 3)
    table = {cell.get_text().get_text() for cell in below.tables[0].get_celld().values()}
    assert {"BN-x5-Sigmoid", "30 ± 0", "13.3 M", "74.8"} <= table
    draw([], Figure())
