"""The verdict on batch normalization's definition, from made-up records."""

from pathlib import Path

from matplotlib.figure import Figure

from normzoo.claims import bn_algorithm
from normzoo.claims._figure import _spread
from normzoo.claims.bn_algorithm import _STATEMENTS
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

judge, draw = on_records(bn_algorithm).judge, on_records(bn_algorithm).draw


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
    assert "1e-15 in float64 (3 seeds)" in judge(good).measured
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


def test_norms_that_agree_are_both_seen(tmp_path: Path) -> None:
    """The second as a hollow marker around the first; and the caption speaks of no bands, which there are not."""
    averages = {f"running_mean_{name}": [1.0, 2.0] for name in ("torch", "fraction", "caffe", "cumulative")}
    arrays = {"scales": [1.0, 10.0], "departure_with_eps": [0.1, 0.01], "true_mean": [3.0], **averages}
    metrics = record().metrics
    norms = ("batch_norm", "batch_norm_scratch")
    records = [
        made_up(tmp_path, norm=norm, seed=seed, metrics=metrics, arrays=arrays) for norm in norms for seed in (0, 1)
    ]
    figure = Figure()
    draw(records, figure)
    first, second = (line for line in figure.axes[2].lines if line.get_label() in norms)
    assert second.get_markersize() > first.get_markersize() + 2
    assert second.get_markerfacecolor() == "none"
    assert _spread(figure) == ""
    figure.axes[0].fill_between([1, 2], [1, 1], [2, 2])
    assert _spread(figure).startswith(" Bands: ± sample std over seeds")
    figure.axes[0].errorbar([1], [1], yerr=[1])
    assert _spread(figure).startswith(" Bands and error bars: ")
