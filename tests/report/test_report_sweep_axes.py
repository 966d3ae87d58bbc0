"""A sweep over anything but batch sizes: what was measured by what was varied, the best of it, and what was lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normzoo.report import report
from normzoo.report.failures import causes, short
from normzoo.report.frame import build_table
from normzoo.report.panels import Panel
from normzoo.report.sweep_axes import axes_of, best, grid_of, over_batches
from normzoo.report.sweep_panels import varied_panels
from normzoo.report.text import grid_table
from normzoo.results import CellResult

Maker = Callable[..., CellResult]
Sweep = Callable[[list[CellResult]], Path]


def rates(cell: Maker) -> list[CellResult]:
    """Two norms over three learning rates; one of them diverges at the highest."""
    return [
        cell(norm, 32, seed, None if lost else 4.0 + 10 * rate + seed, status="diverged" if lost else "ok",
             reason=f"the loss was not finite by step {seed}" if lost else None,
             config={"optimizer": {"name": "sgd", "base_lr": rate}})
        for norm in ("batch_norm", "identity")
        for rate in (0.1, 0.4, 1.6)
        for seed in (0, 1)
        for lost in [norm == "identity" and rate > 1]
    ]  # fmt: skip


def test_a_table_of_what_was_varied(cell: Maker, sweep: Sweep) -> None:
    made = report(sweep(rates(cell)), width=100)
    lines = [line.split() for line in made.table.splitlines()]
    assert ["norm", "\\", "optimizer.base_lr", "0.1", "0.4", "1.6"] in lines
    assert "batch_norm 5.5 ± 0.7 8.5 ± 0.7 20.5 ± 0.7" in map(" ".join, lines)
    assert "identity 5.5 ± 0.7 8.5 ± 0.7 diverged" in map(" ".join, lines)
    assert "best: batch_norm, optimizer.base_lr=0.1: 5.5 ± 0.7 %" in made.text
    assert "diverged, 2 cells: the loss was not finite by step 0" in made.text
    summary = made.summary.read_text()
    assert "## Validation error by norm and optimizer.base_lr" in summary
    assert "| `identity` | 5.5 ± 0.7 | 8.5 ± 0.7 | diverged |" in summary
    assert "- Best: `batch_norm, optimizer.base_lr=0.1`: 5.5 ± 0.7 % (2 seeds)" in summary
    assert "![Validation error by what was varied](errors.png)" in summary
    assert "needs 2 and 32" not in summary + made.text
    assert made.page.read_text().count("<svg") == 1


def test_what_tells_cells_apart(cell: Maker) -> None:
    def names(cells: list[CellResult]) -> list[str]:
        return [axis.name for axis in axes_of(build_table(cells))]

    assert names(rates(cell)) == ["norm", "optimizer.base_lr"]
    assert names([cell(), cell(seed=1)]) == ["norm"]
    assert names([cell(placement="none"), cell()]) == ["placement"]
    models = [cell(config={"model": {"name": name, "depth": depth}}) for name, depth in (("a", 1), ("b", 2))]
    assert names(models) == ["model"]  # the depth follows from it
    one_norm = [cell("group_norm", config={"norm": {"name": "group_norm", "num_groups": groups}}) for groups in (2, 4)]
    assert names(one_norm) == ["norm.num_groups"]
    assert names([*one_norm, cell()]) == ["norm"]
    groups = [cell("ghost_batch_norm", 64, group_size=size) for size in (2, 4)]
    assert names([*groups, cell("identity", 64)]) == ["norm", "norm.group_size"]


def test_one_axis_of_numbers_stands_beside_the_norm(cell: Maker) -> None:
    grid = grid_of(build_table([cell(config={"optimizer": {"base_lr": rate}}) for rate in (0.1, 0.2)]))
    assert grid_table(grid, 1) == (["norm \\ optimizer.base_lr", "0.1", "0.2"], [["batch_norm", "8.0", "8.0"]])


def test_the_best_has_lost_no_seed(cell: Maker) -> None:
    cells = [cell("batch_norm", error=5.0), cell("batch_norm", seed=1, status="diverged"), cell("identity", error=6.0)]
    found = best(build_table(cells))
    assert found is not None
    assert found[0] == "identity"
    assert best(build_table([cell(), cell(seed=1)])) is None
    assert best(build_table([cell(status="error"), cell("identity", status="error")])) is None


@pytest.mark.parametrize(
    ("rate", "scale"), [((0.1, 0.4, 1.6), "log10"), ((1, 2, 8), "log2"), ((0.1, 0.2), "linear"), ((0, 5), "linear")]
)
def test_a_number_is_an_abscissa(cell: Maker, rate: tuple[float, ...], scale: str) -> None:
    cells = [cell(norm, config={"optimizer": {"lr": lr}}) for norm in ("batch_norm", "identity") for lr in rate]
    (panel,) = varied_panels(build_table(cells))
    assert (panel.x_label, panel.scale, list(panel.names)) == ("optimizer.lr", scale, [])
    assert [[x for x, _ in curve.points] for curve in panel.curves] == [list(rate)] * 2
    assert [curve.style.name for curve in panel.curves] == ["BatchNorm", "no norm"]


def ranking(cells: list[CellResult]) -> Panel:
    (panel,) = varied_panels(build_table(cells))
    return panel


def test_what_is_no_number_is_ranked(cell: Maker, sweep: Sweep) -> None:
    norms = [
        cell("batch_norm", error=9.0), cell("layer_norm", error=5.0), cell("identity", status="error", reason="boom"),
        cell("instance_norm", status="refused", reason="one value"),
    ]  # fmt: skip
    panel = ranking(norms)
    assert list(panel.names[:2]) == ["layer_norm", "batch_norm"]
    assert set(panel.names[2:]) == {"identity", "instance_norm (refused)"}
    (curve,) = panel.curves
    assert [place for place, _ in curve.points] == [0, 1]
    assert [panel.names[int(place)] for place in curve.lost] == ["identity"]

    both = [cell(norm, config={"model": {"name": model}}) for norm in ("batch_norm", "identity") for model in "ab"]
    panel = ranking(both)
    assert list(panel.names) == ["batch_norm", "identity"]
    assert [curve.style.name for curve in panel.curves] == ["a", "b"]
    made = report(sweep([*norms, *both]))
    assert made.png.read_bytes().startswith(b"\x89PNG")


def test_batches_keep_their_own_report(cell: Maker) -> None:
    assert over_batches(build_table([cell(batch=4), cell(batch=8)]))
    assert over_batches(build_table([cell("ghost_batch_norm", 64, group_size=size) for size in (2, 4)]))
    assert not over_batches(build_table([cell(placement="none"), cell()]))


def test_causes_are_counted_and_say_where_to_read_on(cell: Maker, sweep: Sweep, tmp_path: Path) -> None:
    def lost(seed: int, status: str, reason: str, **options: Any) -> CellResult:
        return cell(seed=seed, status=status, reason=reason, config={"optimizer": {"base_lr": 0.1 * seed}}, **options)

    cells = [
        lost(0, "error", "RuntimeError: shape (8, 4)"), lost(1, "error", "RuntimeError: shape (2, 4)"),
        lost(2, "error", "KeyError: 'x'"), lost(3, "timeout", "over 60 s"), lost(4, "refused", "one value"),
        lost(5, "ok", ""),
    ]  # fmt: skip
    folder = sweep(cells)
    (folder / cells[1].cell / "error.txt").write_text("trace")
    (folder / cells[3].cell / "cell.log").write_text("lines")
    made = report(folder, width=400)
    assert made.failed == 4
    for line in (
        f"error, 2 cells: RuntimeError: shape (8, 4) [read on in {folder / cells[1].cell / 'error.txt'}]",
        "error, 1 cell: KeyError: 'x'",
        f"timeout, 1 cell: over 60 s [read on in {folder / cells[3].cell / 'cell.log'}]",
        "refused, 1 cell: one value",
    ):
        assert line in made.text.splitlines()
    assert f"read on in `{cells[1].cell}/error.txt`" in made.summary.read_text()
    assert [cause.status for cause in causes(build_table(cells))] == ["error", "error", "timeout", "refused"]


def test_the_advice_of_a_refusal_is_kept_and_no_word_is_cut(cell: Maker, sweep: Sweep) -> None:
    why = "norm0: one value per channel, " + "which it normalizes to nothing, " * 15 + "so choose group_norm"
    made = report(sweep([cell(seed=0), cell(seed=1, status="refused", reason=why)]), width=4000)
    assert f"refused, 1 cell: {why}" in made.text.splitlines()
    assert short("It failed. See there for more", 14) == "It failed. …"
    assert short("cut somewhere in here", 16) == "cut somewhere in …"
    assert short("x" * 20, 10) == "x" * 10 + " …"


def test_true_is_no_1(cell: Maker) -> None:
    """Which are equal keys of a dict."""
    grid = grid_of(build_table([cell(error=float(value), config={"a": {"b": value}}) for value in (1, True, 2)]))
    assert sorted(map(grid.label, grid.points)) == ["1", "2", "true"]


def test_the_best_is_told_without_options_that_its_norm_has_not(cell: Maker) -> None:
    cells = [cell("ghost_batch_norm", 64, error=9.0, group_size=size) for size in (2, 4)]
    found = best(build_table([*cells, cell("identity", 64, error=5.0)]))
    assert found is not None
    assert found[0] == "identity"


def test_a_value_of_null_is_told(cell: Maker) -> None:
    cells = [
        cell(error=error, config={"trainer": {"gradient_clip_val": clip}}) for clip, error in ((None, 5.0), (1.0, 6.0))
    ]
    found = best(build_table(cells))
    assert found is not None
    assert found[0] == "no trainer.gradient_clip_val"
