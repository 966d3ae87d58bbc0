"""Generated records: invented figures in the shape of a real sweep, for the report alone."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from normzoo.identity import cell_id
from normzoo.results import CellResult, write_result

BATCHES = (2, 4, 8, 16, 32, 64)
SHARING = ("batch_norm", "ghost_batch_norm")
# Means at batch 2, 4, 8, 16, 32, 64 (spread at 2 in front): round figures, not measurements.
GRID = {
    "identity": (0.4, (9.2, 9.0, 9.1, 9.5, 9.9, 11.0)),
    "batch_norm": (3.5, (60.0, 10.5, 8.3, 8.1, 8.2, 8.6)),
    "group_norm": (0.5, (8.7, 8.8, 8.8, 9.2, 9.8, 10.5)),
    "layer_norm": (0.5, (9.0, 9.1, 9.0, 9.6, 10.1, 10.9)),
}
PLACED = {
    "pre_act": (2.4, (50.0, 11.5, 9.3, 8.7, 8.5, 8.4)),
    "post_act": (3.0, (58.0, 18.0, 11.0, 9.0, 8.7, 8.6)),
    "last_only": (3.5, (60.0, 13.0, 9.9, 9.1, 9.0, 8.9)),
    "all_but_last": (0.4, (9.6, 9.3, 9.0, 8.8, 8.7, 8.6)),
}
SOFT = (0.5, (8.9, 7.2, 6.6, 6.3, 6.0, 5.8))


def make_cell(
    norm: str = "batch_norm",
    batch: int = 32,
    seed: int = 0,
    error: float | None = 8.0,
    *,
    group_size: int | None = None,
    placement: str = "pre_act",
    image_size: int = 8,
    status: str = "ok",
    reason: str | None = None,
    config: dict[str, Any] | None = None,
) -> CellResult:
    """One generated record; `config` adds top-level entries."""
    norm_config: dict[str, Any] = {"name": norm}
    if norm == "group_norm":
        norm_config["num_groups"] = 8
    if group_size is not None:
        norm_config["group_size"] = group_size
    resolved: dict[str, Any] = {
        "seed": seed,
        "batch_size_per_device": batch,
        "norm": norm_config,
        "placement": {"name": placement, "order": "post_act" if placement == "post_act" else "pre_act", "where": "all"},
        "model": {"name": "plain_cnn", "_target_": "normzoo.models.plain_cnn.PlainCNN", "widths": [8, 16, 32, 64]},
        "data": {"name": "mnist5k", "_target_": "normzoo.data.Mnist5k", "image_size": image_size, "train_size": 4000},
        "optimizer": {"name": "sgd", "base_lr": 0.05, "lr": 0.05 * batch / 32},
        "trainer": {"name": "cpu", "devices": 1, "num_nodes": 1, "max_epochs": 2, "threads": 1},
        **(config or {}),
    }
    positions = (image_size // 8) ** 2
    shared = (group_size or batch) if norm in SHARING else 1
    ran = status == "ok"
    metrics: dict[str, float | None] = {}
    if ran and error is not None:
        metrics = {
            "val_error_running": error,
            "val_error_population": error * 0.98,
            "val_error_batch": error * 1.03,
            "train_error": error * 0.9,
            "val_loss": error / 30,
            "steps": 8000 / batch,
        }
    return CellResult(
        cell=cell_id(resolved),
        status=status,
        reason=reason,
        config=resolved,
        seed=seed,
        metrics=metrics,
        curve=[{"epoch": 0.0, "step": 4000 / batch, "samples": 4000.0, **metrics}] if ran else [],
        values_per_statistic={}
        if norm == "identity"
        else {"stages.0.norm": 16 * shared, "stages.3.norm": shared * positions},
        normalization_batch=None if norm == "identity" else shared,
        time={"wall_s": 1.5 + 12 / batch, "ms_per_step": 2.4, "started": f"2026-01-01T10:{seed:02d}:00+00:00"},
        device={"name": "no machine (generated)", "type": "cpu", "cores": 2, "threads": 1},
        versions={"normzoo": "0", "torch": "0"},
    )


def small_batch_cells(seeds: int = 3) -> Iterator[CellResult]:
    """Records in the shape of the default experiment."""
    random.seed(20)

    def noisy(mean: float, i: int, spread: float) -> float:
        return max(0.1, random.gauss(mean, spread if i == 0 else 0.25))

    for seed in range(seeds):
        for i, batch in enumerate(BATCHES):
            for norm, (spread, means) in GRID.items():
                yield make_cell(norm, batch, seed, noisy(means[i], i, spread))
            undefined = "instance_norm at stages.3 gets a 1×1 map: one value per statistic; use a larger image"
            yield make_cell("instance_norm", batch, seed, status="refused", reason=undefined)
            for placement, (spread, means) in PLACED.items():
                error = noisy(means[i], i, spread)
                yield make_cell("ghost_batch_norm", 64, seed, error, group_size=batch, placement=placement)
            error = noisy(SOFT[1][i], i, SOFT[0])
            yield make_cell("ghost_batch_norm", 64, seed, error, group_size=batch, image_size=16)
        yield make_cell("group_norm", 64, seed, noisy(6.9, 1, 0.3), image_size=16)
        yield make_cell("instance_norm", 64, seed, noisy(9.9, 1, 0.3), image_size=16)


def write_cells(folder: Path, cells: list[CellResult]) -> Path:
    """A sweep folder with these cells."""
    for cell in cells:
        write_result(folder / cell.cell, cell)
    return folder


@pytest.fixture
def cell() -> Callable[..., CellResult]:
    """A maker of generated records."""
    return make_cell


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Path]:
    """Write generated records into a fresh sweep folder."""
    return lambda cells: write_cells(tmp_path / "sweep", cells)


@pytest.fixture
def default_cells() -> list[CellResult]:
    """A whole default experiment, generated."""
    return list(small_batch_cells())


@pytest.fixture
def default_sweep(tmp_path: Path) -> Path:
    """The folder of a whole default experiment, generated."""
    return write_cells(tmp_path / "sweep", list(small_batch_cells()))
