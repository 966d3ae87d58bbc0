"""The verdict on batch normalization's definition, from made-up records."""

from matplotlib.figure import Figure

from normzoo.report.claims.bn_algorithm import _STATEMENTS, draw, judge
from normzoo.results import CellResult


def record(norm: str = "batch_norm", seed: int = 0, status: str = "ok", **errors: float | None) -> CellResult:
    metrics: dict[str, float | None] = {name: 1e-15 for names in _STATEMENTS.values() for name in names}
    metrics |= {"values_a_channel": 12.0} | errors
    return CellResult(
        cell=f"{norm}{seed}",
        status=status,
        config={"norm": {"name": norm}, "study": {"name": "bn_algorithm"}},
        seed=seed,
        metrics=metrics if status == "ok" else {},
    )


def test_it_can_hold_hold_in_part_and_fail() -> None:
    good = [record(norm, seed) for norm in ("batch_norm", "batch_norm_scratch") for seed in range(3)]
    assert judge(good).verdict == "holds"
    assert "1e-15 in float64 (n = 3)" in judge(good).measured
    finding = judge([*good, record(seed=3, scale_output_conv=1e-3)])
    assert finding.verdict == "holds in part"
    assert [check.holds for check in finding.checks].count(False) == 1
    bad = {name: 1e-3 for names in _STATEMENTS.values() for name in names}
    assert judge([record(**bad)]).verdict == "does not hold here"
    assert judge([]).verdict == "not measured"


def test_what_was_no_number_or_no_example_of_twelve_fails() -> None:
    assert judge([record(forward_dense=None)]).verdict == "holds in part"
    assert judge([record(values_a_channel=4.0)]).verdict == "holds in part"


def test_failed_cells_are_said() -> None:
    finding = judge([record(), record(seed=1, status="error")])
    assert all("1 error" in check.measured for check in finding.checks)
    assert finding.verdict == "not measured"
    assert judge([record(forward_dense=1.0), record(seed=1, status="error")]).verdict == "does not hold here"
    assert judge([record(status="error")]).verdict == "not measured"


def test_it_draws_without_recordings() -> None:
    figure = Figure()
    draw([record()], figure)
    assert len(figure.axes) == 3
