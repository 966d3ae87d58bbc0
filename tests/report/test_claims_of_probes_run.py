"""The experiments behind these claims, cut down to seconds: what their cells record is what their judgments read."""

import math
from importlib import import_module
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.report.made_up import on_records
from tests.report.small_cells import ran

NOISE = "probe=[covariate_shift,activation_distribution,output_noise]"
ARMS = {
    "loss_smoothing": [("probe.loss_landscape.every=2",)],
    "loss_surface": [
        ("probe.loss_surface.points=3", "probe.loss_surface.samples=32", f"probe.loss_surface.training_mode={mode}")
        for mode in ("true", "false")
    ],
    "saturation": [("probe.activation_health.samples=64",)],
    "dying_relu": [("probe.activation_health.samples=64",)],
    "covariate_shift": [("probe.covariate_shift.every=2",)],
    "noisy_batch_norm": [("probe.covariate_shift.every=2",), (NOISE, "probe.covariate_shift.every=2")],
}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ARMS)
def test_cells_record_what_is_judged_and_drawn(experiment: str, tmp_path: Path) -> None:
    records = [
        ran(experiment, tmp_path / f"{norm}{i}", f"norm={norm}", *arm)
        for i, arm in enumerate(ARMS[experiment])
        for norm in ("identity", "batch_norm")
    ]
    claim = on_records(import_module(f"normzoo.claims.{experiment}"))
    finding = claim.judge(records)
    assert finding.unmeasured == 0, [check.text for check in finding.checks if check.holds is None]
    assert "nan" not in finding.measured
    assert "no number" not in finding.measured
    figure = Figure(layout="constrained")
    claim.draw(records, figure)
    figure.draw_without_rendering()
    drawn = [axes for axes in figure.axes if axes.lines or axes.collections]
    assert len(drawn) >= 2
    assert all(math.isfinite(edge) for axes in drawn for edge in (*axes.get_xlim(), *axes.get_ylim()))
