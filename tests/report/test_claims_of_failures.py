"""Verdicts on where BatchNorm fails, from made-up records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from made_up import made_up
from matplotlib.figure import Figure

from normzoo.report.claims import recurrent_nets
from normzoo.results import CellResult

SEEDS = range(3)


def errors(running: float, population: float | None = None, batch: float | None = None) -> dict[str, float | None]:
    return {
        "val_error_running": running,
        "val_error_population": running if population is None else population,
        "val_error_batch": running if batch is None else batch,
    }


def cells(root: Path, norm: str, *found: float, **config: Any) -> list[CellResult]:
    """A cell a seed, whose errors differ by a tenth of a point from seed to seed."""
    made = []
    for seed in SEEDS:
        metrics = errors(*(value + 0.1 * seed for value in found))
        curve = [{"epoch": epoch, **metrics} for epoch in (1, 2)]
        made.append(made_up(root, norm=norm, seed=seed, metrics=metrics, curve=curve, **config))
    return made


def drawn(claim: Any, records: list[CellResult]) -> Figure:
    figure = Figure(layout="constrained")
    claim.draw(records, figure)
    figure.draw_without_rendering()
    return figure


def recurrent(root: Path, per_step: float, shared: float, by_batch: float, layer: float, plain: float) -> Any:
    lstm: dict[bool, Mapping[str, Any]] = {own: {"name": "lstm", "per_step": own} for own in (True, False)}
    return [
        *cells(root, "batch_norm", per_step, per_step, by_batch, model=lstm[True]),
        *cells(root, "batch_norm", shared, shared, by_batch, model=lstm[False]),
        *cells(root, "layer_norm", layer, model=lstm[True]),
        *cells(root, "identity", plain, model=lstm[True]),
    ]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((2, 9, 2, 2, 5), "holds"),
        ((2, 9, 9, 2, 5), "holds in part"),  # not for the running statistics
        ((5, 5, 5, 9, 5), "does not hold here"),
    ],
)
def test_recurrent_nets(tmp_path: Path, found: tuple[float, ...], verdict: str) -> None:
    records = recurrent(tmp_path, *found)
    finding = recurrent_nets.judge(records)
    assert finding.verdict == verdict
    assert finding.unmeasured == 0
    assert f"BatchNorm, shared: {found[1] + 0.1:.1f} ± 0.1 % (n = 3)" in finding.measured
    assert [len(axes.lines) > 3 for axes in drawn(recurrent_nets, records).axes] == [True, True]


def test_recurrent_nets_without_cells() -> None:
    assert recurrent_nets.judge([]).verdict == "not measured"
    drawn(recurrent_nets, [])
