"""Verdicts on saturation and on dying ReLUs, from made-up records."""

import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from normzoo.claims import dying_relu, saturation
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

dying_relu, saturation = map(on_records, (dying_relu, saturation))


def saturated(root: Path, norm: str, seed: int, end: float, decades: float, *, scale: float = 1.0) -> CellResult:
    return made_up(
        root,
        norm=norm,
        seed=seed,
        arrays={
            "health_step": [0, 10],
            "health_saturated": [[0.0, 0.0], [end, end + 0.01 * seed]],
            "health_gradient_norms": [[10.0 ** (decades + 0.01 * seed), 0.5, 1.0], [1.0, 1.0, 1.0]],
        },
        model={"name": "mlp", "activation": "tanh", "init_scale": scale},
        optimizer={"base_lr": 0.5},
    )


@pytest.mark.parametrize(
    ("plain", "bn", "verdict"),
    [
        ((0.9, -3.0), (0.1, 0.0), "holds"),
        ((0.9, 0.0), (0.1, 0.0), "holds in part"),
        ((0.05, -3.0), (0.0, 0.0), "holds in part"),  # too little was saturated for anything to be prevented
        ((0.3, 0.0), (0.2, 0.0), "does not hold here"),
    ],
)
def test_saturation(tmp_path: Path, plain: tuple[float, float], bn: tuple[float, float], verdict: str) -> None:
    records = [saturated(tmp_path, "identity", seed, *plain) for seed in range(3)]
    records += [saturated(tmp_path, "batch_norm", seed, *bn) for seed in range(3)]
    finding = saturation.judge(records)
    assert finding.verdict == verdict
    assert "(3 seeds)" in finding.measured
    figure = Figure()
    saturation.draw(records, figure)
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2]


def test_a_larger_start_is_a_check_of_its_own(tmp_path: Path) -> None:
    records = [
        saturated(tmp_path, norm, 0, end, 0.0, scale=scale)
        for norm, end in (("identity", 0.9), ("batch_norm", 0.1))
        for scale in (1.0, 5.0)
    ]
    assert [check.holds for check in saturation.judge(records).checks] == [True, True, False]
    figure = Figure()
    saturation.draw(records, figure)
    assert [len(axes.lines) for axes in figure.axes] == [4, 2, 2]


def test_saturation_without_cells(tmp_path: Path) -> None:
    assert saturation.judge([]).verdict == "not measured"
    assert saturation.judge([saturated(tmp_path, "identity", 0, 0.9, 0.0)]).verdict == "not measured"


def dead(root: Path, norm: str, seed: int, end: float, *, lr: float = 0.1, diverged: bool = False) -> CellResult:
    rows = [[0.0, 0.0], [end, end], [math.nan, math.nan] if diverged else [end, end]]
    return made_up(
        root,
        norm=norm,
        seed=seed,
        status="diverged" if diverged else "ok",
        metrics={} if diverged else {"val_error_running": 5.0},
        arrays={"health_step": [0, 10, 20], "health_dead": rows},
        optimizer={"base_lr": lr},
    )


@pytest.mark.parametrize(
    ("plain", "bn", "verdict"),
    [(0.4, 0.0, "holds"), (0.4, 0.2, "does not hold here"), (0.0, 0.0, "does not hold here")],
)
def test_dying_relu(tmp_path: Path, plain: float, bn: float, verdict: str) -> None:
    records = [dead(tmp_path, "identity", seed, plain) for seed in range(2)]
    records += [dead(tmp_path, "batch_norm", seed, bn) for seed in range(2)]
    assert dying_relu.judge(records).verdict == verdict


def test_a_diverged_cell_counts_up_to_where_it_diverged_and_is_named(tmp_path: Path) -> None:
    records = [dead(tmp_path, "identity", 0, 0.5, lr=0.5, diverged=True), dead(tmp_path, "batch_norm", 0, 0.0, lr=0.5)]
    records += [dead(tmp_path, "identity", 0, 0.4), dead(tmp_path, "batch_norm", 0, 0.4)]
    finding = dying_relu.judge(records)
    assert [check.holds for check in finding.checks] == [False, True]
    assert "dead 50.0 → 0.0 %, error 1 diverged → 5.0 % (1 seed)" in finding.measured
    figure = Figure()
    dying_relu.draw(records, figure)
    assert len(figure.axes) == 4
    assert [axes.get_title("left") for axes in figure.axes[:2]] == ["lr 0.1", "lr 0.5 (no norm: 1 diverged)"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no norm", "BatchNorm"]


def test_a_net_with_batch_norm_that_diverges_prevents_nothing(tmp_path: Path) -> None:
    records = [dead(tmp_path, "identity", seed, 0.4) for seed in range(2)]
    records += [dead(tmp_path, "batch_norm", seed, 0.0, diverged=seed > 0) for seed in range(2)]
    (check,) = dying_relu.judge(records).checks
    assert check.holds is False
    assert "(1 diverged)" in check.measured
    records[3].status = "killed"
    assert dying_relu.judge(records).verdict == "not measured"


def test_dying_relu_without_cells() -> None:
    assert dying_relu.judge([]).verdict == "not measured"
