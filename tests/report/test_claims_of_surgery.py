"""Verdicts on fine-tuning and on adapting at test time, from made-up records."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from normzoo.claims import adaptation, fine_tuning
from normzoo.results import CellResult
from scripts.make_evidence import main
from tests.report.made_up import made_up, on_records

adaptation, fine_tuning = map(on_records, (adaptation, fine_tuning))

ARMS = ("frozen", "eval_mode", "recalibrate_freeze", "batch_renorm", "group_norm", "group_norm_calibrated")
RATES = (0.01, 0.1, 1.0)


def drawn(claim: Any, records: list[CellResult]) -> Figure:
    figure = Figure(layout="constrained")
    claim.draw(records, figure)
    figure.draw_without_rendering()
    return figure


def tuned(root: Path, as_is: float, others: float, recalibrated: float, best: float = 0.1) -> list[CellResult]:
    """Cells whose error is ten points more at a learning rate that is not the best."""
    made = []
    for seed in range(3):
        for arm, error in {"as_is": as_is, **dict.fromkeys(ARMS, others), "recalibrate": as_is}.items():
            for lr in RATES:
                found = error + 0.1 * seed + 10 * (lr != best)
                metrics = {"error": found, "error_untreated": 80.0, "error_treated": recalibrated + 0.1 * seed}
                study = {"name": "fine_tuning", "arm": arm, "shift": "strong"}
                optimizer = {"name": "sgd", "base_lr": lr}
                made.append(
                    made_up(
                        root, norm="batch_norm", seed=seed, metrics={**metrics, "error_recalibrated": found},
                        study=study, optimizer=optimizer, batch_size_per_device=2,
                    )
                )  # fmt: skip
    return made


@pytest.mark.parametrize(
    ("found", "verdict"),
    [((40, 20, 30), "holds"), ((20, 40, 30), "holds in part"), ((20, 40, 90), "does not hold here")],
)
def test_fine_tuning(tmp_path: Path, found: Any, verdict: str) -> None:
    records = tuned(tmp_path, *found)
    finding = fine_tuning.judge(records)
    assert (finding.verdict, finding.unmeasured) == (verdict, 0)
    assert len(finding.checks) == 7
    assert f"strong shift: BN as it is {found[0] + 0.1:.1f} ± 0.1 %" in finding.measured
    assert len(drawn(fine_tuning, records).axes) == 1


def test_a_best_rate_at_the_edge_tells_nothing_of_what_is_better(tmp_path: Path) -> None:
    finding = fine_tuning.judge(tuned(tmp_path, 40, 20, 30, best=1.0))
    assert [check.holds for check in finding.checks[:6]] == [None] * 6


def test_evidence_is_made_of_records_alone(tmp_path: Path) -> None:
    tuned(tmp_path / "tuned", 40, 20, 30)
    for norm, error in (("batch_norm", 50.0), ("group_norm", 7.0)):
        for seed in range(3):
            made_up(
                tmp_path / "small", norm=norm, seed=seed, metrics={"val_error_running": error + seed},
                batch_size_per_device=2, placement={"name": "pre_act"}, data={"name": "mnist5k", "image_size": 8},
                optimizer={"name": "sgd", "base_lr": 0.05},
            )  # fmt: skip
    main(str(tmp_path / "tuned"), str(tmp_path / "small"), tmp_path / "evidence.json")
    figures = json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))["figures"]
    found = {(row["shift"], row["action"]): (row["error"], row["batch"], row["base_lr"]) for row in figures}
    assert found["strong", "keep"] == (40.1, 2, 0.1)
    assert found["strong", "freeze"] == (20.1, 2, 0.1)
    assert found["strong", "recalibrate_only"] == (30.1, None, None)
    assert found["", "group_norm"] == (8.0, 2, 0.05)


def adapted(root: Path, none: float, large: float, small: float) -> list[CellResult]:
    made = []
    for severity, plain in ((0.0, 5.0), (1.0, none)):
        for seed in range(3):
            metrics: dict[str, float | None] = {"error_none": plain + 0.1 * seed}
            for method in ("adabn", "blend", "tent"):
                metrics |= {f"error_{method}_256": large + 0.1 * seed, f"error_{method}_2": small + 0.1 * seed}
            study = {"name": "adaptation", "severity": severity}
            made.append(made_up(root, norm="batch_norm", seed=seed, metrics=metrics, study=study))
    return made


@pytest.mark.parametrize(
    ("found", "verdict"),
    [((80, 20, 60), "holds"), ((80, 20, 21), "holds in part"), ((20, 30, 4), "does not hold here")],
)
def test_adaptation(tmp_path: Path, found: Any, verdict: str) -> None:
    records = adapted(tmp_path, *found)
    finding = adaptation.judge(records)
    assert (finding.verdict, finding.unmeasured, len(finding.checks)) == (verdict, 0, 9)
    assert f"severity 1: not adapted {found[0] + 0.1:.1f} ± 0.1 %" in finding.measured
    assert [len(axes.lines) >= 4 for axes in drawn(adaptation, records).axes] == [True, True]


@pytest.mark.parametrize("claim", [adaptation, fine_tuning])
def test_without_cells_nothing_is_measured(claim: Any) -> None:
    assert claim.judge([]).verdict == "not measured"
