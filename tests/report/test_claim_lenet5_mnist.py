"""The verdict on LeNet-5 with and without BatchNorm, from made-up records."""

import pytest
from matplotlib.figure import Figure

from normzoo.claims import lenet5_mnist
from normzoo.results import CellResult
from tests.report.made_up import on_records

judge, draw = on_records(lenet5_mnist).judge, on_records(lenet5_mnist).draw


def record(
    norm: str,
    seed: int,
    first: float,
    last: float,
    *,
    scaling: str = "zscore",
    status: str = "ok",
    data: str = "mnist5k",
) -> CellResult:
    errors = [first, (first + last) / 2, last]
    curve: list[dict[str, float | None]] = [
        {"epoch": i + 1, "val_error_running": e, "train_error": e - 1, "val_loss": e / 30, "train_loss": e / 25}
        for i, e in enumerate(errors)
    ]
    config = {"norm": {"name": norm}, "data": {"name": data, "scaling": scaling, "train_size": 4000}}
    return CellResult(
        cell=f"{norm}{seed}{scaling}", status=status, config=config, seed=seed, curve=curve if status == "ok" else []
    )


def arms(without: tuple[float, float], bn: tuple[float, float], **options: str) -> list[CellResult]:
    both = {"identity": without, "batch_norm": bn}
    return [record(n, s, *(e + 0.1 * s for e in ends), **options) for n, ends in both.items() for s in range(3)]


@pytest.mark.parametrize(
    ("without", "bn", "verdict"),
    [
        ((11.0, 5.0), (10.0, 4.0), "holds"),
        ((11.0, 5.0), (10.0, 5.0), "holds in part"),
        ((11.0, 5.0), (10.95, 4.95), "does not hold here"),  # within the spread of the seeds
        ((10.0, 4.0), (11.0, 5.0), "does not hold here"),
    ],
)
def test_verdict(without: tuple[float, float], bn: tuple[float, float], verdict: str) -> None:
    finding = judge(arms(without, bn))
    assert finding.verdict == verdict
    assert len(finding.checks) == 3
    assert f"without BN {100 - without[0] - 0.1:.1f} ± 0.1" in finding.measured
    assert "(3 seeds)" in finding.measured
    assert finding.measured.endswith("93 and 98 % without BN, 95 and 98.5 % with BN")


def test_both_scalings_are_judged() -> None:
    finding = judge([*arms((11.0, 5.0), (10.0, 4.0)), *arms((10.0, 4.0), (11.0, 5.0), scaling="minmax")])
    assert finding.verdict == "holds in part"
    assert [check.holds for check in finding.checks] == [True] * 3 + [False] * 3
    assert judge(arms((11.0, 5.0), (10.0, 4.0), scaling="minmax")).unmeasured == 3


def test_missing_and_lost_cells() -> None:
    assert judge([]).verdict == "not measured"
    finding = judge([*arms((11.0, 5.0), (10.0, 4.0))[:3], record("batch_norm", 0, 1, 1, status="diverged")])
    assert finding.verdict == "does not hold here"
    assert "1 diverged" in finding.measured


def test_it_draws() -> None:
    figure = Figure()
    draw(arms((11.0, 5.0), (10.0, 4.0)), figure)
    draw(arms((11.0, 5.0), (10.0, 4.0))[:2], Figure())
    assert [len(axes.lines) for axes in figure.axes] == [4, 9]


def test_the_tutorials_figures_stand_beside_those_of_mnist_alone() -> None:
    for data, there in (("mnist", True), ("fashion_mnist", False)):
        records = arms((11.0, 5.0), (10.0, 4.0), data=data)
        assert ("tutorials report" in judge(records).measured) == there
        figure = Figure()
        draw(records, figure)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert ("tutorials, 60,000 images of MNIST" in labels) == there
        assert figure.axes[1].get_title("left") == f"Accuracy, 4,000 training images of {data}"
