"""The verdict on normalizers of data, from made-up records."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from normzoo.claims import data_normalizers
from normzoo.claims.data_normalizers import _PROMISES, NAMES, RAW
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

judge, draw = on_records(data_normalizers).judge, on_records(data_normalizers).draw

Losses = Mapping[str, float | None]  # None where they were not finite


def facts(root: Path, off: float, top: float = 1.0, length: float = 1.0) -> list[CellResult]:
    metrics: dict[str, float | None] = {name: off for names in _PROMISES.values() for name in names}
    metrics |= {"minmax_min": 0.0, "minmax_max": top, "example_length": length}
    arrays = {f"{name}_histogram": np.ones(4) for name in NAMES} | {f"{name}_edges": np.arange(5.0) for name in NAMES}
    arrays["example_l2"] = np.full(10, 0.1**0.5)
    return [made_up(root, norm="identity", seed=0, metrics=metrics, arrays=arrays, study={"name": "normalizers"})]


def trained(root: Path, losses: Losses, rate: float = 0.1) -> list[CellResult]:
    return [
        made_up(
            root,
            norm="identity",
            seed=seed,
            metrics={"train_loss": None if loss is None else loss + 0.01 * seed},
            arrays={"epoch_train_loss": [math.nan if loss is None else factor * loss for factor in (2.0, 1.0)]},
            study={"name": "normalized_training", "normalizer": name},
            optimizer={"base_lr": rate},
        )
        for name, loss in losses.items()
        for seed in range(3)
    ]


FASTER: Losses = {RAW: 0.9, **dict.fromkeys([name for name in NAMES if name != RAW], 0.2)}
SLOWER: Losses = {RAW: 0.1, **dict.fromkeys([name for name in NAMES if name != RAW], 0.2)}


@pytest.mark.parametrize(
    ("off", "top", "length", "losses", "verdict"),
    [
        (1e-12, 1.0, 1.0, FASTER, "holds"),
        (1e-12, 1.0, 0.0206, FASTER, "holds in part"),
        (1e-12, 1.0, 1.0, SLOWER, "holds in part"),
        (0.1, 1.1, 0.0206, SLOWER, "does not hold here"),
    ],
)
def test_verdict(tmp_path: Path, off: float, top: float, length: float, losses: Losses, verdict: str) -> None:
    finding = judge(facts(tmp_path, off, top, length) + trained(tmp_path, losses))
    assert finding.verdict == verdict
    assert len(finding.checks) == 2 + len(_PROMISES) + 5
    assert f"pixels 0 to 255 {losses[RAW] + 0.01:.3f} ± 0.010 at 0.1" in finding.measured  # type: ignore[operator]


def test_each_is_taken_at_its_best_learning_rate(tmp_path: Path) -> None:
    records = trained(tmp_path, FASTER) + trained(tmp_path, {**dict.fromkeys(NAMES, None), RAW: 0.05}, rate=1.0)
    assert {check.holds for check in judge(records).checks[-5:]} == {None}  # it may be better beyond
    records += trained(tmp_path, dict.fromkeys(NAMES, 2.0), rate=0.01) + trained(tmp_path, {RAW: None}, rate=10.0)
    finding = judge(facts(tmp_path, 1e-12) + records)
    assert "pixels 0 to 255 0.060 ± 0.010 at 1 (3 of 12 cells not finite);" in finding.measured
    assert "z-score 0.210 ± 0.010 at 0.1 (3 of 9 cells not finite)" in finding.measured
    assert [check.holds for check in finding.checks[-5:]] == [False] * 5


def test_the_example_is_told_with_what_it_should_read(tmp_path: Path) -> None:
    (check,) = [c for c in judge(facts(tmp_path, 0, length=0.0206)).checks if "tutorial" in c.text]
    assert check.holds is False
    assert check.measured.startswith(
        "length 0.0206, every number 48.5 times too small; normalized it reads 0.316, 0.316"
    )


def test_missing_cells(tmp_path: Path) -> None:
    older = facts(tmp_path, 1e-12)
    del older[0].metrics["zscore_nan"]
    assert [check.holds for check in judge(older).checks if "NaN" in check.text] == [None, True]
    assert judge([]).verdict == "not measured"
    assert judge(trained(tmp_path, {RAW: 0.9})).verdict == "not measured"


def test_pixels_that_train_at_no_rate_are_the_worst(tmp_path: Path) -> None:
    records = trained(tmp_path, {RAW: None, "zscore": 0.2, "l2": None})
    finding = judge(records)
    found = dict(zip([name for name in NAMES if name != RAW], finding.checks[-5:], strict=True))
    assert found["zscore"].holds is True
    assert found["zscore"].measured == "trains at no learning rate against 0.210 ± 0.010"
    assert found["l2"].holds is False
    assert found["pca"].holds is None
    records[0].status = "timeout"  # its loss at this rate may have been the best
    assert [check.holds for check in judge(records).checks[-5:]] == [None, None, False, None, None]
    assert "pixels 0 to 255 trains at no learning rate (3 of 3 cells not finite)" in finding.measured


def test_it_draws(tmp_path: Path) -> None:
    figure = Figure()
    draw(facts(tmp_path, 1e-12) + trained(tmp_path, FASTER) + trained(tmp_path, {RAW: None}, rate=1.0), figure)
    assert len(figure.axes) == len(NAMES) + 2
    histograms = figure.axes[: len(NAMES)]
    assert histograms[0].yaxis.get_tick_params().get("labelleft", True)  # the numbers of all
    assert all(axes.get_shared_y_axes().joined(axes, histograms[0]) for axes in histograms)
    left, right = figure.axes[-2:]
    assert (len(left.lines), len(right.lines)) == (len(NAMES) + 2, len(NAMES))  # a cross, and what it means
    assert left.get_legend_handles_labels()[1][-1] == "loss not finite"
    draw(trained(tmp_path, {RAW: None}), Figure())
