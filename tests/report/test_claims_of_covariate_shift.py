"""Verdicts on internal covariate shift and on noisy BatchNorm, from made-up records."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from normzoo.claims import covariate_shift, noisy_batch_norm
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

covariate_shift, noisy_batch_norm = map(on_records, (covariate_shift, noisy_batch_norm))


def shifted(
    root: Path, norm: str, seed: int, shift: float, cosine: float, drift: float, *, linear: bool = False
) -> CellResult:
    distances = np.full((3, 4), shift + 0.01 * seed)
    metrics: dict[str, float | None] = {"covariate_shift": shift + 0.01 * seed, "covariate_shift_cosine": cosine}
    arrays: dict[str, Any] = {
        "shift_step": [0, 10, 20],
        "shift_distances": distances,
        "shift_gradient_norms": np.ones((3, 4)),
        "shift_cosines": np.full((3, 4), cosine),
    }
    if not linear:
        metrics["activation_drift"] = drift + 0.001 * seed
        arrays |= {"activation_step": [0, 10], "activation_quantiles": np.arange(20.0).reshape(2, 2, 5)}
    model = {"name": "mlp", "activation": "none"} if linear else {"name": "vgg9", "activation": "relu"}
    return made_up(root, norm=norm, seed=seed, metrics=metrics, arrays=arrays, model=model, optimizer={"base_lr": 0.1})


@pytest.mark.parametrize(
    ("plain", "bn", "verdict"),
    [
        ((1.0, 0.3, 0.2), (0.2, 0.8, 0.01), "holds"),
        ((0.2, 0.8, 0.2), (1.0, 0.3, 0.01), "holds in part"),  # what Santurkar et al. found
        ((0.2, 0.8, 0.01), (1.0, 0.3, 0.2), "does not hold here"),
    ],
)
def test_covariate_shift(tmp_path: Path, plain: Any, bn: Any, verdict: str) -> None:
    records = [shifted(tmp_path, "identity", seed, *plain) for seed in range(3)]
    records += [shifted(tmp_path, "batch_norm", seed, *bn) for seed in range(3)]
    finding = covariate_shift.judge(records)
    assert finding.verdict == verdict
    assert len(finding.checks) == 3
    both = [
        *records,
        shifted(tmp_path, "identity", 0, *plain, linear=True),
        shifted(tmp_path, "batch_norm", 0, *bn, linear=True),
    ]
    assert len(covariate_shift.judge(both).checks) == 5
    figure = Figure()
    covariate_shift.draw(both, figure)
    assert [len(axes.lines) for axes in figure.axes] == [2] * 9  # distributions, and the shift of each net


def test_covariate_shift_without_cells(tmp_path: Path) -> None:
    assert covariate_shift.judge([]).verdict == "not measured"
    assert covariate_shift.judge([shifted(tmp_path, "identity", 0, 1, 1, 1)]).verdict == "not measured"


def noisy(root: Path, norm: str, seed: int, error: float, loss: float, drift: float, noise: bool) -> CellResult:
    curve: list[dict[str, float | None]] = [
        {"epoch": epoch, "train_loss": loss * factor, "val_error_population": error * factor}
        for epoch, factor in ((1, 2.0), (2, 1.0))
    ]
    return made_up(
        root,
        norm=norm,
        seed=seed,
        metrics={"activation_drift": drift, "train_loss": loss, "val_error_population": error + 0.1 * seed},
        curve=curve,
        arrays={"activation_step": [0, 10], "activation_drift": np.full((2, 3), drift)},
        probe={"output_noise": {}} if noise else {},
    )


@pytest.mark.parametrize(
    ("none", "bn", "with_noise", "verdict"),
    [
        ((10, 0.3, 0.2), (3, 0.02, 0.01), (4, 0.1, 0.3), "holds"),
        ((10, 0.3, 0.2), (3, 0.02, 0.01), (9, 0.5, 0.3), "holds in part"),  # the noise does harm
        ((10, 0.3, 0.4), (3, 0.02, 0.01), (9, 0.5, 0.3), "does not hold here"),  # and is not even much
    ],
)
def test_noisy_batch_norm(tmp_path: Path, none: Any, bn: Any, with_noise: Any, verdict: str) -> None:
    records = []
    for seed in range(2):
        records += [noisy(tmp_path, "identity", seed, *none, False), noisy(tmp_path, "batch_norm", seed, *bn, False)]
        records.append(noisy(tmp_path, "batch_norm", seed, *with_noise, True))
    finding = noisy_batch_norm.judge(records)
    assert finding.verdict == verdict
    assert f"noisy BatchNorm: error {with_noise[0] + 0.05:.1f} ± 0.1 % (2 seeds)" in finding.measured
    figure = Figure()
    noisy_batch_norm.draw(records, figure)
    assert [len(axes.lines) for axes in figure.axes] == [3, 3, 3]


def test_noisy_nets_that_diverge(tmp_path: Path) -> None:
    none, bn, rough = (
        [noisy(tmp_path, norm, seed, *found, noise) for seed in range(2)]
        for norm, found, noise in (
            ("identity", (10, 0.3, 0.2), False),
            ("batch_norm", (3, 0.02, 0.01), False),
            ("batch_norm", (4, 0.1, 0.3), True),
        )
    )
    for record in none:
        record.status = "diverged"
    assert [check.holds for check in noisy_batch_norm.judge([*none, *bn, *rough]).checks] == [False, True, True]
    rough[0].status = "diverged"
    assert [check.holds for check in noisy_batch_norm.judge([*none, *bn, *rough]).checks] == [False, False, False]


def test_noisy_batch_norm_without_cells() -> None:
    assert noisy_batch_norm.judge([]).verdict == "not measured"
