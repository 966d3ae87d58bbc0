"""Verdicts on the smoothness of the loss and on its surface, from made-up records."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from normzoo.claims import loss_smoothing, loss_surface
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

loss_smoothing, loss_surface = map(on_records, (loss_smoothing, loss_surface))


def landscape(root: Path, norm: str, seed: int, scale: float, beta: float, status: str = "ok") -> CellResult:
    losses = scale * np.arange(1.0, 13.0).reshape(4, 3) + 0.01 * seed
    metrics = {
        "landscape_loss_range": scale * (1 + 0.1 * seed),
        "landscape_gradient_distance": 2 * scale,
        "landscape_beta_max": beta + seed,
    }
    arrays = {
        "landscape_step": [0, 6, 12, 18],
        "landscape_losses": losses,
        "landscape_gradient_distances": losses,
        "landscape_beta": losses[:, 0] * beta,
    }
    return made_up(root, norm=norm, seed=seed, metrics=metrics, arrays=arrays, status=status)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale", "beta", "verdict"),
    [
        (0.1, 20.0, "holds"),
        (0.1, 40.0, "holds in part"),
        (0.9, 40.0, "does not hold here"),
        (3.0, 90.0, "does not hold here"),
    ],
)
def test_smoothing(tmp_path: Path, scale: float, beta: float, verdict: str) -> None:
    records = [landscape(tmp_path, "identity", seed, 1.0, 50.0) for seed in range(3)]
    records += [landscape(tmp_path, "batch_norm", seed, scale, beta) for seed in range(3)]
    finding = loss_smoothing.judge(records)
    assert finding.verdict == verdict
    assert "no norm 1.10 ± 0.10 (3 seeds)" in finding.measured
    figure = Figure()
    loss_smoothing.draw(records, figure)
    assert [len(axes.collections) for axes in figure.axes] == [1] * 6  # a row a measure, a column a norm
    assert [axes.get_title("left") for axes in figure.axes] == ["no norm", "BatchNorm", "", "", "", ""]
    assert all(axes.get_ylabel() for axes in figure.axes[::2])


def test_smoothing_without_cells_or_with_lost_ones(tmp_path: Path) -> None:
    assert loss_smoothing.judge([]).verdict == "not measured"
    one = [landscape(tmp_path, "batch_norm", 0, 0.1, 20.0), landscape(tmp_path, "identity", 0, 1, 1, "diverged")]
    finding = loss_smoothing.judge(one)
    assert finding.verdict == "holds"
    assert all(check.measured.startswith("1 diverged against") for check in finding.checks)
    assert loss_smoothing.judge([landscape(tmp_path, "identity", 0, 1, 1, "timeout"), one[0]]).verdict == "not measured"
    assert "no norm 1 diverged" in finding.measured
    figure = Figure()
    loss_smoothing.draw(one, figure)
    assert figure.axes[1].get_title("left") == "no norm (1 diverged)"


def surface(root: Path, norm: str, seed: int, rise: float, wide: float, follows: bool = True) -> CellResult:
    grid = np.linspace(-1, 1, 11)
    losses = 0.01 + np.maximum(0, np.hypot(*np.meshgrid(grid, grid)) - wide) * rise
    return made_up(
        root,
        norm=norm,
        seed=seed,
        metrics={"surface_rise": float((losses - losses[5, 5]).mean())},
        arrays={"surface_alphas": grid, "surface_losses": losses},
        probe={"loss_surface": {"training_mode": follows}},
    )


@pytest.mark.parametrize(
    ("follows", "running", "verdict"),
    [
        ((3, 0.6), (3, 0.3), "holds"),
        ((3, 0.2), (60, 0.2), "holds in part"),
        ((30, 0.2), (60, 0.2), "does not hold here"),
    ],
)
def test_surface(tmp_path: Path, follows: tuple[float, float], running: tuple[float, float], verdict: str) -> None:
    records = []
    for seed in range(2):
        records += [surface(tmp_path, "identity", seed, 30, 0.2), surface(tmp_path, "batch_norm", seed, *follows)]
        records.append(surface(tmp_path, "batch_norm", seed, *running, follows=False))
    finding = loss_surface.judge(records)
    assert finding.verdict == verdict
    assert len(finding.checks) == 3
    figure = Figure(layout="constrained")
    loss_surface.draw(records, figure)
    assert [axes.get_title("left") for axes in figure.axes[:3]] == [
        "no norm\nseed 0", "BatchNorm, batch statistics\nseed 0", "BatchNorm, running statistics\nseed 0",
    ]  # fmt: skip


def test_surface_without_cells() -> None:
    assert loss_surface.judge([]).verdict == "not measured"
