"""The verdicts on learning rates and on initialization, from made-up records."""

from collections.abc import Mapping
from typing import Any

import pytest
from matplotlib.figure import Figure

from normzoo.claims import initialization, learning_rates
from normzoo.results import CellResult
from tests.report.made_up import on_records

initialization, learning_rates = map(on_records, (initialization, learning_rates))

Errors = Mapping[float, float | None]  # error at a setting; None where the cells diverged


def cells(group: str, key: str, errors: Mapping[str, Errors], seeds: int = 3) -> list[CellResult]:
    made = []
    for norm, found in errors.items():
        for value, error in found.items():
            for seed in range(seeds):
                config: dict[str, Any] = {"norm": {"name": norm}, group: {"name": "x", key: value}}
                ok = error is not None
                made.append(
                    CellResult(
                        cell=f"{norm}{value}{seed}",
                        status="ok" if ok else "diverged",
                        config=config,
                        seed=seed,
                        metrics={"val_error_running": error + 0.1 * seed} if error is not None else {},
                    )
                )
    return made


def rates(plain: Errors, bn: Errors) -> list[CellResult]:
    return cells("optimizer", "base_lr", {"identity": plain, "batch_norm": bn})


def scales(plain: Errors, bn: Errors) -> list[CellResult]:
    return cells("model", "init_scale", {"identity": plain, "batch_norm": bn})


@pytest.mark.parametrize(
    ("plain", "bn", "verdict"),
    [
        ({0.01: 9.0, 0.1: 5.0, 1: None, 2: None}, {0.01: 9.0, 0.1: 4.0, 1: 3.0, 2: None}, "holds"),
        ({0.1: 5.0, 1: None}, {0.1: 4.0, 1: 3.0}, "holds as far as measured"),  # both best at an edge of the grid
        # Larger, by less than 5 ×: it may yet train at a rate that was not tried, or has been shown not to.
        ({0.1: 5.0, 0.2: 8.0, 0.4: 90.0}, {0.1: 4.0, 0.2: 3.0, 0.4: 6.0}, "holds as far as measured"),
        ({0.1: 5.0, 0.4: 90.0, 0.8: None}, {0.1: 4.0, 0.4: 6.0, 0.8: None}, "holds in part"),
        ({0.1: 4.0, 1: None}, {0.1: 5.0, 1: None}, "does not hold here"),
        ({0.1: 4.0, 1: 3.0}, {0.1: None, 1: None}, "does not hold here"),
    ],
)
def test_learning_rates(plain: Errors, bn: Errors, verdict: str) -> None:
    finding = learning_rates.judge(rates(plain, bn))
    assert finding.verdict == verdict
    learning_rates.draw(rates(plain, bn), Figure())


def test_learning_rates_are_told_with_their_errors() -> None:
    finding = learning_rates.judge(rates({0.1: 5.0, 1: None}, {0.1: 4.0, 1: 3.0}))
    assert "no norm: trains up to 0.1; best 5.1 ± 0.1 % at 0.1 (3 seeds); 3 diverged" in finding.measured
    assert "BatchNorm: trains up to 1; best 3.1 ± 0.1 % at 1 (3 seeds)" in finding.measured


def test_one_seed_that_does_not_train_is_enough_not_to_train() -> None:
    records = rates({0.1: 5.0, 1: 5.0}, {0.1: 5.0, 1: 4.0})
    assert learning_rates.judge(records).checks[0].holds is False
    records[3].metrics["val_error_running"] = 90.0  # of the plain net at 1
    assert learning_rates.judge(records).checks[0].holds is True


@pytest.mark.parametrize(
    ("plain", "bn", "verdict"),
    [
        ({0.1: 90.0, 1: 5.0, 10: None}, {0.1: 4.0, 1: 3.0, 10: 8.0}, "holds"),
        ({0.1: 90.0, 1: 5.0, 10: None}, {0.1: 4.0, 1: 3.0, 10: 20.0}, "holds in part"),
        ({0.1: 6.0, 1: 5.0, 10: 7.0}, {0.1: 4.0, 1: 3.0, 10: 5.0}, "holds in part"),  # nor is it needed
        ({0.1: 6.0, 1: 5.0, 10: 7.0}, {0.1: 90.0, 1: 3.0, 10: None}, "does not hold here"),
    ],
)
def test_initialization(plain: Errors, bn: Errors, verdict: str) -> None:
    finding = initialization.judge(scales(plain, bn))
    assert finding.verdict == verdict
    assert finding.unmeasured == 0
    initialization.draw(scales(plain, bn), Figure())


def test_initialization_is_told() -> None:
    finding = initialization.judge(scales({0.1: 90.0, 1: 5.0, 10: None}, {0.1: 4.0, 1: 3.0, 10: 8.0}))
    assert "no norm: 1 of 3 scales train (1); error 5.1 ± 0.1 % (3 seeds) at 1; 3 diverged" in finding.measured
    assert (
        "BatchNorm: 3 of 3 scales train (0.1, 1, 10); error 3.1 ± 0.1 % (3 seeds) at 1, at most 8.1 ± 0.1 % at 10"
        in (finding.measured)
    )


def test_diverged_seeds_are_drawn_with_their_number() -> None:
    records = rates({0.1: 5.0, 1: 8.0, 2: None}, {0.1: 4.0, 1: 3.0, 2: 6.0})
    records[3].status, records[3].metrics = "diverged", {}  # one seed of the plain net at 1
    figure = Figure()
    learning_rates.draw(records, figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1/3", "3/3", "guessing"]
    learning_rates.draw(rates({0.1: 5.0}, {0.1: 4.0}), figure := Figure())
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["no norm", "BatchNorm"]


@pytest.mark.parametrize("status", ["timeout", "killed", "oom", "error"])
def test_cells_of_no_norm_that_failed_are_no_evidence_for_batch_norm(status: str) -> None:
    settings: Errors = {0.1: 5.0, 1: 5.0}
    for claim, records in ((learning_rates, rates(settings, settings)), (initialization, scales(settings, settings))):
        check = claim.judge(records).checks[:2][claim is initialization]
        assert check.holds is False
        for record in records[3:6]:  # the plain net at 1
            record.status, record.metrics = status, {}
        check = claim.judge(records).checks[:2][claim is initialization]
        assert check.holds is None
        assert claim.judge([*records[:3], *records[6:]]).verdict != "holds"  # nor that they have not run
        for record in records[9:12]:  # BatchNorm there: the setting is left out
            record.status, record.metrics = status, {}
        assert claim.judge(records).checks[:2][claim is initialization].holds is False


def test_seeds_that_one_norm_has_not_are_left_out() -> None:
    records = rates({0.1: 5.0, 1: 5.0}, {0.1: 4.0, 1: 4.0})
    records[3].status = "timeout"
    records[9].metrics["val_error_running"] = 90.0  # of BatchNorm, with the same seed
    finding = learning_rates.judge(records)
    assert [check.holds for check in finding.checks] == [False, False, None]
    assert "0.1, is at the edge of those tried" in finding.checks[2].measured
    assert finding.checks[0].measured == "1 against 1: 1 ×"


def test_a_net_that_trains_at_no_rate_has_the_higher_error() -> None:
    finding = learning_rates.judge(rates({0.1: None, 1: 90.0}, {0.1: 4.0, 1: 3.0}))
    assert finding.verdict == "holds"
    assert "trains at none against 3.1 ± 0.1" in finding.checks[2].measured
    assert learning_rates.judge(rates({0.1: 4.0, 1: 3.0}, {0.1: None, 1: None})).unmeasured == 0


def test_scales_of_batch_norm_that_failed_leave_its_checks_open() -> None:
    records = scales({0.1: 90.0, 1: 5.0, 10: None}, {0.1: 4.0, 1: 3.0, 10: 8.0})
    records[-1].status, records[-1].metrics = "killed", {}
    finding = initialization.judge(records)
    assert [check.holds for check in finding.checks] == [None, True, None]
    assert finding.verdict == "holds as far as measured"
    records[-2].status, records[-2].metrics = "diverged", {}
    assert [check.holds for check in initialization.judge(records).checks] == [False, True, False]


def test_without_cells_nothing_is_measured() -> None:
    for claim in (learning_rates, initialization):
        assert claim.judge([]).verdict == "not measured"
    assert learning_rates.judge(rates({0.1: 5.0}, {})).verdict == "not measured"
    assert initialization.judge(scales({}, {1: 5.0})).verdict == "not measured"
