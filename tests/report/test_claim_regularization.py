"""The verdict on BatchNorm as a regularizer, from made-up records."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from normzoo.claims import regularization
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

judge, draw = on_records(regularization).judge, on_records(regularization).draw

Errors = Mapping[tuple[str, float], float]
PLAIN, DROPPED, BN, BOTH = ("identity", 0.0), ("identity", 0.5), ("batch_norm", 0.0), ("batch_norm", 0.5)


def record(
    root: Path, norm: str, drops: float, error: float, seed: int, *, batch: int = 32, noise: float = 0.1
) -> CellResult:
    return made_up(
        root,
        norm=norm,
        seed=seed,
        metrics={"val_error_running": error + 0.1 * seed, "train_error": 1.0, "statistic_noise_mean": noise},
        curve=[{"epoch": epoch, "val_error_running": error, "train_error": 1.0} for epoch in (1, 2)],
        model={"name": "plain_cnn", "dropout": drops},
        batch_size_per_device=batch,
    )


def arms(root: Path, errors: Errors) -> list[CellResult]:
    return [record(root, *arm, error, seed) for arm, error in errors.items() for seed in range(3)]


def batches(root: Path, bn: tuple[float, float], group: tuple[float, float], noise: float = 0.5) -> list[CellResult]:
    """Errors at batch 8 and 128, and BatchNorm's noise at batch 8; at the others it is 0.1."""
    return [
        record(root, norm, 0.0, error, seed, batch=batch, noise=noise if batch == 8 else 0.1)
        for norm, ends in (("batch_norm", bn), ("group_norm", group))
        for batch, error in zip((8, 128), ends, strict=True)
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ({PLAIN: 10, DROPPED: 8, BN: 5, BOTH: 6}, "holds"),
        ({PLAIN: 10, DROPPED: 4, BN: 5, BOTH: 6}, "holds in part"),
        ({PLAIN: 10, DROPPED: 8, BN: 5, BOTH: 3}, "holds in part"),  # dropout still helps
        ({PLAIN: 5, DROPPED: 4, BN: 10, BOTH: 6}, "does not hold here"),
    ],
)
def test_norms_and_dropout(tmp_path: Path, errors: Errors, verdict: str) -> None:
    finding = judge(arms(tmp_path, errors))
    assert finding.verdict == verdict
    assert len(finding.checks) == 3
    assert f"no norm: gap {errors[PLAIN] - 0.9:.1f} ± 0.1, error {errors[PLAIN] + 0.1:.1f} ± 0.1 % (3 seeds)" in (
        finding.measured
    )


def test_noise_is_judged_against_a_norm_without_it(tmp_path: Path) -> None:
    errors = arms(tmp_path, {PLAIN: 10, DROPPED: 8, BN: 5, BOTH: 6, ("group_norm", 0.0): 7})
    as_claimed = judge(errors + batches(tmp_path, (3, 6), (6, 7)))
    assert [check.holds for check in as_claimed.checks] == [True] * 7
    both = judge(errors + batches(tmp_path, (3, 6), (2, 7)))
    assert [check.holds for check in both.checks] == [True] * 6 + [False]
    otherwise = judge(errors + batches(tmp_path, (6, 3), (5, 7), noise=0.05))
    assert [check.holds for check in otherwise.checks[4:]] == [False] * 3


def test_missing_and_lost_cells(tmp_path: Path) -> None:
    assert judge([]).verdict == "not measured"
    assert judge(arms(tmp_path, {PLAIN: 10})).verdict == "not measured"


def test_cells_that_diverged_tell_no_gap(tmp_path: Path) -> None:
    records = arms(tmp_path, {PLAIN: 10, DROPPED: 8, BN: 5, BOTH: 6})
    for record in (*records[:3], *records[9:]):  # without a norm, and BatchNorm with dropout
        record.status = "diverged"
    assert [check.holds for check in judge(records).checks] == [False, True, True]
    records[6].status = "diverged"  # BatchNorm without dropout
    assert [check.holds for check in judge(records).checks] == [False, False, False]


def test_it_draws(tmp_path: Path) -> None:
    records = arms(tmp_path, {PLAIN: 10, DROPPED: 8, BN: 5, BOTH: 6}) + batches(tmp_path, (3, 6), (6, 7))
    figure = Figure()
    draw(records, figure)
    assert len(figure.axes) == 4
    assert all(axes.get_ylabel() for axes in figure.axes)
    draw(records[:3], Figure())
