"""Each verdict both ways, from generated records."""

from collections.abc import Callable, Sequence

import pytest

from normzoo.report.checks import Check, run_checks
from normzoo.report.frame import build_table
from normzoo.results import CellResult

Maker = Callable[..., CellResult]


def judged(cells: Sequence[CellResult], word: str) -> Check:
    found = [check for check in run_checks(build_table(cells)) if check.text.startswith(word)]
    assert len(found) == 1
    return found[0]


def pair(cell: Maker, norm: str, small: Sequence[float], large: Sequence[float]) -> list[CellResult]:
    return [
        *(cell(norm, 2, seed, error) for seed, error in enumerate(small)),
        *(cell(norm, 32, seed, error) for seed, error in enumerate(large)),
    ]


@pytest.mark.parametrize(
    ("small", "large", "verdict", "figure"),
    [
        (
            (60.0, 58.0, 62.0),
            (8.0, 8.2, 7.8),
            "holds",
            "60.0 ± 2.0 − 8.0 ± 0.2 = +52.0 points; 5 × the standard deviation = 7.1",
        ),
        ((17.9, 18.0, 18.1), (8.1, 8.2, 8.3), "does not hold", "+9.8 points"),  # less than 10 points
        ((40.0, 20.0, 60.0), (8.0, 8.0, 8.0), "does not hold", "5 × the standard deviation = 70.7"),  # less than 5 std
        ((8.0, 8.1), (30.0, 30.1), "does not hold", "−22.0 points"),  # the wrong way round
        ((60.0,), (8.0,), "cannot be told", "needs more than one seed"),
    ],
)
def test_batch_norm_falls_at_small_batches(
    small: Sequence[float], large: Sequence[float], verdict: str, figure: str, cell: Maker
) -> None:
    check = judged(pair(cell, "batch_norm", small, large), "batch_norm")
    assert check.verdict == verdict
    assert figure in check.measured


@pytest.mark.parametrize(
    ("small", "large", "verdict", "figure"),
    [
        ((8.7, 8.9), (9.8, 10.0), "holds", "= −1.1 points"),
        ((8.7,), (9.8,), "holds", "= −1.1 points"),
        ((12.0, 12.0), (10.0, 10.0), "does not hold", "= +2.0 points"),
        ((6.0, 6.0), (9.0, 9.0), "does not hold", "= −3.0 points"),
    ],
)
def test_group_norm_stays(
    small: Sequence[float], large: Sequence[float], verdict: str, figure: str, cell: Maker
) -> None:
    check = judged(pair(cell, "group_norm", small, large), "group_norm")
    assert check.verdict == verdict
    assert figure in check.measured


def larger_maps(cell: Maker, means: Sequence[float], image_size: int = 16) -> list[CellResult]:
    return [
        cell("ghost_batch_norm", 64, seed, mean + seed / 10, group_size=2 ** (i + 1), image_size=image_size)
        for i, mean in enumerate(means)
        for seed in range(2)
    ]


@pytest.mark.parametrize(
    ("means", "verdict", "figure"),
    [
        ((8.9, 7.2, 6.6, 6.5), "holds", "2→4 −1.70; 4→8 −0.60; 8→16 −0.10; end to end 8.9 ± 0.1 → 6.5 ± 0.1: −2.40"),
        ((8.9, 7.2, 7.2, 6.5), "does not hold", "4→8 +0.00 (not down)"),
        ((8.9, 7.2, 7.3, 6.5), "does not hold", "4→8 +0.10 (not down)"),
        ((8.9, 7.2), "cannot be told", "needs 3"),
    ],
)
def test_with_larger_maps_the_error_falls_steadily(
    means: Sequence[float], verdict: str, figure: str, cell: Maker
) -> None:
    check = judged(larger_maps(cell, means), "ghost_batch_norm")
    assert check.verdict == verdict
    assert figure in check.measured
    assert "4 positions" in check.text


def test_it_is_set_beside_what_stays_flat(cell: Maker) -> None:
    cells = [*larger_maps(cell, (8.9, 7.2, 6.6)), cell("group_norm", 64, 0, 7.0, image_size=16)]
    assert "beside it group_norm 7.0" in judged(cells, "ghost_batch_norm").measured


def test_maps_of_one_position_are_not_asked_for_it(cell: Maker) -> None:
    assert run_checks(build_table(larger_maps(cell, (50.0, 20.0, 10.0), image_size=8))) == []


def test_diverged_cells_are_left_out_and_counted(cell: Maker) -> None:
    cells = [*pair(cell, "batch_norm", (60.0, 61.0), (8.0, 8.1)), cell("batch_norm", 2, 7, status="diverged")]
    check = judged(cells, "batch_norm")
    assert check.verdict == "holds"
    assert "1 diverged left out" in check.measured


@pytest.mark.parametrize(
    ("norm", "batch", "status", "verdict"),
    [
        ("batch_norm", 2, "timeout", "cannot be told"),
        ("batch_norm", 32, "killed", "cannot be told"),
        ("batch_norm", 32, "diverged", "does not hold"),
        ("group_norm", 2, "diverged", "does not hold"),
        ("group_norm", 32, "error", "cannot be told"),
    ],
)
def test_what_is_left_is_no_evidence_alone(cell: Maker, norm: str, batch: int, status: str, verdict: str) -> None:
    errors = {"batch_norm": ((60.0, 61.0), (8.0, 8.1)), "group_norm": ((8.0, 8.1), (8.2, 8.3))}[norm]
    complete = pair(cell, norm, *errors)
    assert judged(complete, norm).verdict == "holds"
    check = judged([*complete, cell(norm, batch, 7, status=status)], norm)
    assert check.verdict == verdict
    assert f"1 {status}" in check.measured


def test_batch_norm_that_diverges_with_every_seed_has_failed(cell: Maker) -> None:
    cells = [cell("batch_norm", 2, 0, status="diverged"), *pair(cell, "batch_norm", (), (8.0, 8.1))]
    check = judged(cells, "batch_norm")
    assert (check.verdict, check.measured) == ("holds", "every cell at batch 2 diverged; at 32 8.1 ± 0.1")


def test_a_map_whose_seeds_diverged_breaks_the_fall(cell: Maker) -> None:
    lost = cell("ghost_batch_norm", 64, 7, group_size=2, image_size=16, status="diverged")
    assert judged([*larger_maps(cell, (8.9, 7.2, 6.6)), lost], "ghost_batch_norm").verdict == "does not hold"


def test_a_claim_that_no_cell_is_about_is_left_out(cell: Maker) -> None:
    assert run_checks(build_table([cell("identity", 2), cell("identity", 32)])) == []
    for batches in ((32,), (2,), (4, 8, 32)):  # nobody has asked for it
        assert run_checks(build_table([cell("group_norm", batch) for batch in batches])) == []
    asked = [cell("group_norm", 2), cell("group_norm", 32, status="refused"), cell("identity", 32)]
    (check,) = run_checks(build_table(asked))
    assert check.text.startswith("group_norm")
    assert check.measured == "measured at batch 2; needs 2 and 32; 1 refused left out"


def test_each_setting_is_judged_alone(cell: Maker) -> None:
    cells = [
        cell("batch_norm", batch, seed, error, config={"optimizer": {"base_lr": lr}})
        for lr, small in ((0.1, 60.0), (0.01, 9.0))
        for batch, error in ((2, small), (32, 8.0))
        for seed in range(2)
    ]
    checks = [check for check in run_checks(build_table(cells)) if check.text.startswith("batch_norm")]
    assert {(check.text.split(":")[0], check.verdict) for check in checks} == {
        ("batch_norm, base_lr=0.1", "holds"),
        ("batch_norm, base_lr=0.01", "does not hold"),
    }
