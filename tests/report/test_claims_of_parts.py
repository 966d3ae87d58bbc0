"""Verdicts on training only norms and on whitening, from made-up records."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from normzoo.claims import only_batch_norm, whitening
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

only_batch_norm, whitening = map(on_records, (only_batch_norm, whitening))

SEEDS = range(3)


def drawn(claim: Any, records: list[CellResult]) -> Figure:
    figure = Figure(layout="constrained")
    claim.draw(records, figure)
    figure.draw_without_rendering()
    return figure


def partly(root: Path, trains: str, *by_rate: float) -> list[CellResult]:
    """A cell a seed and learning rate; `by_rate` are the errors at 0.1, 0.2 and so on."""
    made = []
    for i, error in enumerate(by_rate):
        for seed in SEEDS:
            metrics: dict[str, float | None] = {"val_error_running": error + 0.1 * seed}
            if trains != "all":
                metrics |= {"trained_parameters": 240.0, "parameters": 24000.0}
            optimizer = {"name": "sgd", "base_lr": round(0.1 * (i + 1), 1), "trains": trains}
            made.append(made_up(root, norm="batch_norm", seed=seed, metrics=metrics, optimizer=optimizer))
    return made


@pytest.mark.parametrize(
    ("norms", "sampled", "last", "verdict"),
    [
        ((50, 20, 40), (60, 40, 50), (50, 30, 50), "holds"),
        ((50, 20, 40), (60, 22, 50), (50, 30, 50), "holds in part"),
        ((70, 60, 70), (60, 50, 60), (50, 30, 50), "does not hold here"),
        ((50, 20, 10), (60, 40, 50), (50, 30, 50), "cannot be told"),
        ((90, 89, 90), (90, 88, 90), (50, 30, 50), "does not hold here"),
        ((90, 89, 90), (90, 88, 90), (91, 90, 93), "cannot be told"),
    ],
)
def test_only_batch_norm(tmp_path: Path, norms: Any, sampled: Any, last: Any, verdict: str) -> None:
    arms = {
        "all": ((90, 89, 90) if last[0] > 90 else (6.0, 5.0, 6.0)),
        "norms": norms,
        "sampled": sampled,
        "last": last,
    }
    records = [record for arm, errors in arms.items() for record in partly(tmp_path, arm, *errors)]
    finding = only_batch_norm.judge(records)
    assert finding.verdict == verdict
    assert finding.unmeasured == 0
    rate = 2 if norms[1] < norms[2] else 3
    told = f"norms alone (240, 1.0 %): {min(norms) + 0.1:.1f} ± 0.1 % (3 seeds, learning rate {rate / 10})"
    assert told in finding.measured
    assert len(drawn(only_batch_norm, records).axes[0].get_yticklabels()) == 4


def test_a_rate_is_judged_only_where_every_seed_came_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"norms": (50.0, 20.0), "sampled": (60.0, 40.0), "last": (70.0, 80.0)}
    records = [record for arm, errors in arms.items() for record in partly(tmp_path, arm, *errors)]
    monkeypatch.setattr("normzoo.claims._checks.at_edge", lambda rate, tried: "")  # which of two rates always is
    assert [check.holds for check in only_batch_norm.judge(records).checks] == [True, True, True]
    for record in records[3:5]:  # two seeds at the rate that is best for the norms
        record.status = "diverged"
    finding = only_batch_norm.judge(records)
    assert [check.holds for check in finding.checks] == [False, False, True]
    assert "norms alone (240, 1.0 %): 50.1 ± 0.1 % (3 seeds, learning rate 0.1), 2 diverged" in finding.measured
    records[6].status = records[9].status = "diverged"  # the random weights at both rates
    assert only_batch_norm.judge(records).checks[1].holds is True
    records[12].status = "timeout"
    assert only_batch_norm.judge(records).checks[2].holds is None
    records[0].status = "diverged"  # the norms, now at both
    assert [check.holds for check in only_batch_norm.judge(records).checks] == [False, False, False]


def whitened(
    root: Path, norm: str, error: float, first: float, correlation: float, ms: float, *, seeds: int = 3
) -> list[CellResult]:
    made = []
    for seed in range(seeds):
        record = made_up(
            root,
            norm=norm,
            seed=seed,
            metrics={"val_error_running": error + 0.1 * seed, "channel_correlation": correlation},
            curve=[{"epoch": 1, "val_error_running": first + 0.1 * seed}, {"epoch": 2, "val_error_running": error}],
            arrays={"correlation_mean": [correlation, correlation]},
        )
        record.time["ms_per_step"] = ms + 5 * seed  # the first seed is the fastest
        made.append(record)
    return made


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ((4.0, 8.0, 0.05, 6.0), "holds"),
        ((7.0, 14.0, 0.05, 6.0), "holds in part"),
        ((7.0, 14.0, 0.3, 3.0), "does not hold here"),
    ],
)
def test_whitening(tmp_path: Path, other: Any, verdict: str) -> None:
    records = whitened(tmp_path, "batch_norm", 6.0, 12.0, 0.3, 3.0)
    for norm in ("decorrelated_batch_norm", "iter_norm"):
        records += whitened(tmp_path, norm, *other)
    finding = whitening.judge(records)
    assert finding.verdict == verdict
    assert finding.unmeasured == 0
    assert f"{other[3] / 3.0:.2f} × BN's step" in finding.measured
    assert [bool(axes.lines or axes.patches) for axes in drawn(whitening, records).axes] == [True] * 3


@pytest.mark.parametrize("claim", [only_batch_norm, whitening])
def test_without_cells_nothing_is_measured(claim: Any) -> None:
    assert claim.judge([]).verdict == "not measured"
