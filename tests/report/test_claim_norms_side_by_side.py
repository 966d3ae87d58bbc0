"""The verdict on four norms side by side, from made-up records."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from normzoo.claims import norms_side_by_side
from normzoo.claims.norms_side_by_side import ORDER, WITHOUT
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

judge, draw = on_records(norms_side_by_side).judge, on_records(norms_side_by_side).draw

Ends = Mapping[str, tuple[float, float]]  # loss after the first epoch, error after the last
AS_PUBLISHED = {WITHOUT: (1.0, 9.0), "batch_norm": (0.4, 4.0), "group_norm": (0.5, 5.0), "layer_norm": (0.6, 6.0)}
AS_PUBLISHED["instance_norm"] = (0.7, 7.0)
OTHERWISE = {WITHOUT: (0.1, 1.0), "batch_norm": (0.7, 7.0), "group_norm": (0.6, 6.0), "layer_norm": (0.5, 5.0)}
OTHERWISE["instance_norm"] = (0.4, 4.0)


def arms(root: Path, ends: Ends, data: str = "digits") -> list[CellResult]:
    return [
        made_up(
            root,
            norm=norm,
            seed=seed,
            metrics={"val_error_running": error + 0.1 * seed},
            curve=[
                {"epoch": 1, "val_loss": loss + 0.01 * seed, "val_error_running": 2 * error},
                {"epoch": 2, "val_loss": loss / 2, "val_error_running": error + 0.1 * seed},
            ],
            data={"name": data},
        )
        for norm, (loss, error) in ends.items()
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        (AS_PUBLISHED, "holds"),
        ({**AS_PUBLISHED, "instance_norm": (2.0, 80.0)}, "holds in part"),
        ({**AS_PUBLISHED, "group_norm": (0.5, 4.05)}, "holds in part"),  # within the spread of the seeds
        (OTHERWISE, "does not hold here"),
    ],
)
def test_verdict(tmp_path: Path, ends: Ends, verdict: str) -> None:
    finding = judge(arms(tmp_path, ends))
    assert finding.verdict == verdict
    assert [check.text.split(":")[0] for check in finding.checks] == ["digits"] * (2 * len(ORDER) - 1)
    assert f"BatchNorm {ends['batch_norm'][1] + 0.1:.1f} ± 0.1 % (3 seeds)" in finding.measured


def test_each_data_set_is_judged_and_drawn(tmp_path: Path) -> None:
    records = arms(tmp_path, AS_PUBLISHED) + arms(tmp_path, OTHERWISE, "synthetic")
    finding = judge(records)
    assert [check.holds for check in finding.checks] == [True] * 7 + [False] * 7
    figure = Figure()
    draw(records, figure)
    assert [len(axes.lines) for axes in figure.axes] == [5] * 4
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


def test_missing_and_lost_cells(tmp_path: Path) -> None:
    assert judge([]).verdict == "not measured"
    assert judge(arms(tmp_path, {WITHOUT: (1.0, 9.0)})).verdict == "not measured"
    gone = made_up(tmp_path, norm="batch_norm", seed=0, status="diverged")
    finding = judge([*arms(tmp_path, {WITHOUT: (1.0, 9.0)}), gone])
    assert "BatchNorm 1 diverged" in finding.measured
    draw([*arms(tmp_path, {WITHOUT: (1.0, 9.0)}), gone], Figure())


def test_seeds_that_diverge_are_not_passed_over(tmp_path: Path) -> None:
    records = arms(tmp_path, AS_PUBLISHED)
    for record in records[3:5]:  # two seeds of BatchNorm
        record.status = "diverged"
    finding = judge(records)
    assert [check.holds for check in finding.checks] == [False, True, True, True, False, True, True]
    assert "(2 diverged)" in finding.checks[4].measured
    for record in records[:3]:  # all of the net without a norm
        record.status = "diverged"
    finding = judge(records)
    assert [check.holds for check in finding.checks] == [False, True, True, True, False, True, True]
    records[6].status = "killed"  # one seed of GroupNorm
    assert [check.holds for check in judge(records).checks] == [False, None, True, True, False, None, True]
