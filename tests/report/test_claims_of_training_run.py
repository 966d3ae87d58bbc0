"""The experiments behind these claims, cut down to seconds: what their cells record is what their judgments read."""

import math
from importlib import import_module
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.report.made_up import on_records
from tests.report.small_cells import ran

INCEPTION = ("model.width=0.05", "model.modules=[3a]")
RECIPE = (*INCEPTION, "recipe=bn_accelerated")
LENET = ("model=lenet5", "placement=post_act", "placement.where=[0,1]", "data=mnist5k", "data.image_size=28")
ARMS = {
    "norms_side_by_side": [("norm=identity",), ("norm=batch_norm",), ("norm=instance_norm",)],
    "data_normalizers": [
        ("study=normalizers",),
        ("study.normalizer=raw", "optimizer.base_lr=1e-3"),
        ("study.normalizer=zca", "optimizer.base_lr=0.1"),
    ],
    "faster_training": [
        ("norm=identity", *INCEPTION),
        ("norm=identity", *INCEPTION, "recipe.lr=5"),
        ("norm=batch_norm", *INCEPTION),
        ("norm=batch_norm", *RECIPE),
        ("norm=batch_norm", *RECIPE, "recipe.lr=30"),
        ("norm=batch_norm", *RECIPE, "model.activation=sigmoid"),
        *((f"norm={norm}", *LENET) for norm in ("identity", "batch_norm")),
    ],
    "regularization": [
        *((f"norm={norm}", f"model.dropout={drops}") for norm in ("identity", "batch_norm") for drops in (0.0, 0.5)),
        ("norm=batch_norm", "batch_size_per_device=8"),
    ],
}
# Arms that were left out above: other normalizers, and the other norms side by side and in LeNet-5.
UNMEASURED = {"norms_side_by_side": 5, "data_normalizers": 4, "faster_training": 3, "regularization": 0}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ARMS)
def test_cells_record_what_is_judged_and_drawn(experiment: str, tmp_path: Path) -> None:
    records = [ran(experiment, tmp_path / str(i), *arm) for i, arm in enumerate(ARMS[experiment])]
    assert [record.status for record in records] == ["ok"] * len(records)
    claim = on_records(import_module(f"normzoo.claims.{experiment}"))
    finding = claim.judge(records)
    assert finding.unmeasured == UNMEASURED[experiment], [c.text for c in finding.checks if c.holds is None]
    assert "nan" not in finding.measured
    figure = Figure(layout="constrained")
    claim.draw(records, figure)
    figure.draw_without_rendering()
    drawn = [axes for axes in figure.axes if axes.lines or axes.patches]
    assert len(drawn) >= 2
    assert all(math.isfinite(edge) for axes in drawn for edge in (*axes.get_xlim(), *axes.get_ylim()))
