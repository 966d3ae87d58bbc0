"""Claims are judged from records alone: verdicts, pages, figures, and a claim that fails beside one that does not."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

import normzoo.claims as claims
from normzoo.claims import Check, Finding, judge_claims
from normzoo.claims._cells import curves, frame, lost, recordings, split, spread, text, where
from normzoo.claims._checks import Outcome, exceeds
from normzoo.claims._draw import legend, log_scale
from normzoo.claims._figure import drawn
from normzoo.errors import UserError
from normzoo.report.series import over_seeds
from normzoo.results import CellResult
from normzoo.sweep.claims_manifest import ClaimCells, gather, of_claims_alone, read_claims, write_claims


@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """A claim that exists for this test, made of two functions."""
    monkeypatch.setattr(claims, "known_claims", lambda: ["good", "bad", "small_batch"])

    def made(name: str, judge: Callable[..., Any], draw: Callable[..., None]) -> str:
        module: Any = ModuleType(name)
        module.judge, module.draw = judge, draw
        monkeypatch.setitem(sys.modules, f"normzoo.claims.{name}", module)
        return name

    return made


def listed(folder: Path, name: str, cells: list[CellResult], grids: str = "full") -> ClaimCells:
    made = ClaimCells(name, f"{name} is so.", "Nobody 2000", tuple(cell.cell for cell in cells), grids)
    write_claims(folder, [made])
    return made


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        ([True, True], "holds"),
        ([True, False], "holds in part"),
        ([False, False], "does not hold here"),
        ([None, None], "not measured"),
        ([], "not measured"),
        ([None, True], "holds as far as measured"),
        ([None, True, False], "holds in part"),
        ([None, False], "does not hold here"),
    ],
)
def test_verdict(holds: list[bool | None], verdict: str) -> None:
    finding = Finding("", [Check("", so, "") for so in holds])
    assert finding.verdict == verdict
    assert finding.unmeasured == holds.count(None)


@pytest.mark.parametrize(
    ("gap", "by", "holds", "narrow"),
    [
        (2.5, 0.0, True, False),
        (1.5, 0.0, True, True),
        (0.2, 0.0, False, True),
        (-0.2, 0.0, False, False),
        (5.5, 5.0, True, True),
        (2.5, 5.0, False, False),
    ],
)
def test_a_check_is_narrow_where_other_seeds_could_turn_it(gap: float, by: float, holds: bool, narrow: bool) -> None:
    low = over_seeds({0: [1.0], 1: [2.0], 2: [3.0]})
    high = over_seeds({seed: [gap + seed + 1] for seed in range(3)})
    check = exceeds("it is higher", Outcome(high), Outcome(low), by=by)
    assert (check.holds, check.narrow) == (holds, narrow)
    assert Finding("", [check, Check("", None, "", narrow=True)]).narrow == narrow  # what was not measured is no matter
    assert not exceeds("it is higher", Outcome(high), Outcome(low, diverged=1), by=by).narrow


def test_cells_of_claims_are_written_and_merged(tmp_path: Path) -> None:
    block = {"name": "a", "statement": "A.", "source": "S"}
    found = gather(
        [("1", block), ("2", None), ("1", block), ("3", {**block, "grids": "quick"}), ("1", block | {"name": "b"})]
    )
    assert found == [ClaimCells("a", "A.", "S", ("1", "3")), ClaimCells("b", "A.", "S", ("1",))]
    write_claims(tmp_path, found)
    write_claims(tmp_path, [ClaimCells("b", "B.", "S", ("9",), "quick")])
    write_claims(tmp_path, [])
    assert read_claims(tmp_path) == [found[0], ClaimCells("b", "B.", "S", ("9",), "quick")]
    assert read_claims(tmp_path / "elsewhere") == []
    assert write_claims(tmp_path / "elsewhere", []) is None


def test_sweeps_that_write_at_the_same_time_keep_each_others_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"claim_{i}" for i in range(8)]
    together = threading.Barrier(len(names))

    def read_slowly(folder: Any) -> list[ClaimCells]:
        found = read_claims(folder)
        time.sleep(0.02)  # whoever reads in the meantime, without a lock, overwrites what is written then
        return found

    def write(name: str) -> None:
        together.wait()
        write_claims(tmp_path / "new", [ClaimCells(name, "A.", "S", (name,))])

    monkeypatch.setattr("normzoo.sweep.claims_manifest.read_claims", read_slowly)
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(write, names))
    assert sorted(claim.name for claim in read_claims(tmp_path / "new")) == names


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into"):
        write_claims(tmp_path / "file", [ClaimCells("a", "A.", "S", ("1",))])


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"statement": ""}}'])
def test_a_corrupt_list_of_cells_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(UserError, match=r"claims\.json is corrupt"):
        judge_claims(tmp_path)


def test_a_sweep_without_claims_is_not_judged(default_sweep: Path) -> None:
    assert judge_claims(default_sweep) is None
    assert not (default_sweep / "claims.md").exists()


def test_a_claim_that_fails_stands_beside_one_that_does_not(
    claim: Callable[..., str], cell: Callable[..., CellResult], sweep: Callable[..., Path]
) -> None:
    cells = [cell(seed=seed, error=8.0 + seed) for seed in range(3)]
    other = cell(seed=7, error=50.0)
    folder = sweep([*cells, other])

    def judge(cells: pd.DataFrame) -> Finding:
        value = spread(cells, "val_error_running")
        assert value is not None
        return Finding(
            text(value, cells), [Check("the error is 9 %", value.mean == 9.0, "as it says | and so on", narrow=True)]
        )

    def draw(cells: pd.DataFrame, figure: Figure) -> None:
        figure.add_subplot().plot(cells["metrics.val_error_running"])

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    listed(folder, claim("good", judge, draw), cells)
    listed(folder, claim("bad", fail, draw), cells)
    made = judge_claims(folder, width=80)
    assert made is not None
    assert made.failed == 1
    assert "holds: good: good is so. [9.0 ± 1.0 (3 seeds)]" in made.text  # the cell of no claim is in no mean
    assert "not judged: bad" in made.text
    page = made.page.read_text(encoding="utf-8")
    assert (
        "| [good](#good): good is so. | Nobody 2000 | 9.0 ± 1.0 (3 seeds) | **holds** (1 of 1 check narrow) "
        "| [png](claims/good.png) |" in page
    )
    assert "| the error is 9 % | yes, narrowly | as it says \\| and so on |" in page
    assert "ZeroDivisionError" in page
    assert "no machine (generated)" in page
    assert {file.name for file in (folder / "claims").iterdir()} == {"good.png", "good.svg"}


def test_a_corrupt_recording_fails_its_claim_alone(
    claim: Callable[..., str], cell: Callable[..., CellResult], sweep: Callable[..., Path]
) -> None:
    cells = [cell()]
    folder = sweep(cells)

    def read(cells: pd.DataFrame, *_: Any) -> Any:
        (cells.record.iloc[0].folder / "recording.npz").write_bytes(b"cut short")
        return recordings(cells)

    listed(folder, claim("bad", read, lambda cells, figure: None), cells)
    listed(folder, claim("good", lambda cells: Finding("1", [Check("so", True, "1")]), read), cells)
    made = judge_claims(folder)
    assert made is not None
    assert [one.verdict for one in made.judged] == ["not judged", "holds"]
    assert "its judgment failed: UserError" in made.text
    assert "its figure failed: UserError" in made.text


def test_a_figure_that_fails_leaves_the_verdict(
    claim: Callable[..., str], cell: Callable[..., CellResult], sweep: Callable[..., Path]
) -> None:
    cells = [cell()]
    folder = sweep(cells)

    def fail(*_: Any) -> None:
        raise KeyError("x")

    listed(folder, claim("good", lambda records: Finding("1", [Check("so", True, "1")]), fail), cells)
    made = judge_claims(folder)
    assert made is not None
    assert (made.judged[0].verdict, made.failed) == ("holds", 1)
    assert "its figure failed" in made.text


def test_missing_corrupt_and_failed_cells_are_said(
    claim: Callable[..., str], cell: Callable[..., CellResult], sweep: Callable[..., Path]
) -> None:
    cells = [cell(seed=0), cell(seed=1, status="timeout", reason="30 s"), cell(seed=2), cell(seed=3)]
    folder = sweep(cells[:3])
    (folder / cells[2].cell / "result.json").write_text("{")

    def judge(cells: pd.DataFrame) -> Finding:
        return Finding(text(spread(cells, "val_error_running"), cells), [Check("never", None, lost(cells))])

    listed(folder, claim("good", judge, lambda *_: None), cells, grids="quick")
    made = judge_claims(folder)
    assert made is not None
    assert made.failed == 2  # the cell out of time, and the file
    page = made.page.read_text(encoding="utf-8")
    assert "8.0 (1 seed), 1 timeout" in page
    assert "2 cells of 4 without a record" in page
    assert "is corrupt" in page
    assert "normzoo claims --only good --quick" in page
    assert "**not measured**" in page


@pytest.mark.parametrize(
    ("command", "again", "alone"),
    [
        ("", "normzoo claims --only good", False),
        ("normzoo claims --quick data=digits", "normzoo claims --only good --quick data=digits", True),
        ("normzoo claims --quick --only bad,good", "normzoo claims --only good --quick", True),
        ("normzoo train -m experiment=good 'a=b c'", "normzoo train -m experiment=good 'a=b c'", False),
    ],
)
def test_each_claim_is_told_with_what_runs_it_again(
    claim: Callable[..., str], cell: Callable[..., CellResult], sweep: Callable[..., Path],
    command: str, again: str, alone: bool,
) -> None:  # fmt: skip
    folder = sweep([cell()])
    name = claim("good", lambda records: Finding("1", [Check("so", True, "1")]), lambda *_: None)
    write_claims(folder, [ClaimCells(name, "It is.", "Nobody 2000", (cell().cell,), command=command)])
    made = judge_claims(folder)
    assert made is not None
    page = made.page.read_text(encoding="utf-8")
    assert f"**Holds**. Run it again with `{again}`" in page
    assert "- Claims: holds 1" in page
    assert "narrow)" not in page
    assert of_claims_alone(folder) == alone


def test_where_claims_stand_alone(tmp_path: Path) -> None:
    assert not of_claims_alone(tmp_path / "none")
    assert not of_claims_alone(tmp_path)
    write_claims(tmp_path, [ClaimCells(name, "A.", "S", ("1",)) for name in "ab"])
    assert not of_claims_alone(tmp_path)  # two sweeps of `normzoo train`, which ends with a report on all cells
    write_claims(tmp_path, [ClaimCells("a", "A.", "S", ("1",), command="normzoo claims")])
    assert of_claims_alone(tmp_path)
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "result.json").touch()
        assert of_claims_alone(tmp_path) == (number == "1")  # the second is of another sweep into the folder


def test_an_unknown_claim_is_said(cell: Callable[..., CellResult], sweep: Callable[..., Path]) -> None:
    folder = sweep([cell()])
    listed(folder, "unheard_of", [cell()])
    made = judge_claims(folder)
    assert made is not None
    assert "no unheard_of.py judges it" in made.text
    assert made.failed == 1


def test_the_page_is_the_same_twice(default_sweep: Path, default_cells: list[CellResult]) -> None:
    listed(default_sweep, "small_batch", default_cells)
    first, second = judge_claims(default_sweep), judge_claims(default_sweep)
    assert first is not None
    assert second is not None
    assert first.text == second.text
    png = (default_sweep / "claims" / "small_batch.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def test_small_batch_can_hold_and_can_fail(
    default_sweep: Path, default_cells: list[CellResult], cell: Callable[..., CellResult], sweep: Callable[..., Path]
) -> None:
    listed(default_sweep, "small_batch", default_cells)
    made = judge_claims(default_sweep)
    assert made is not None
    assert made.judged[0].verdict == "holds"
    flat = [cell(norm, size, seed, error=9 - 8 * (norm == "group_norm" and size == 2) + 0.1 * seed)
            for norm in ("batch_norm", "group_norm") for size in (2, 32) for seed in range(3)]  # fmt: skip
    folder = sweep(flat)
    (folder / "claims.json").unlink(missing_ok=True)
    listed(folder, "small_batch", flat)
    made = judge_claims(folder)
    assert made is not None
    assert made.judged[0].verdict == "does not hold here"


def test_choosing_cells(cell: Callable[..., CellResult]) -> None:
    norms = ("group_norm", "batch_norm")
    records = [cell(norm, size, seed) for norm in norms for size in (4, 2) for seed in (0, 1)]
    cells = frame(records)
    assert list(cells.record) == records  # in their own order
    assert len(where(cells, norm="group_norm", batch=2)) == 2
    assert len(where(cells, norm__num_groups=8)) == 4
    assert len(where(cells, model="another")) == len(where(cells, no__such__entry=1)) == 0
    assert {name: len(found) for name, found in split(cells, "norm").items()} == dict.fromkeys(norms, 4)
    assert split(cells, "no.such.entry") == {}


def test_spreads(cell: Callable[..., CellResult]) -> None:
    records = [cell(seed=seed, error=error) for seed, error in enumerate((7.0, 9.0, None))]
    cells = frame([*records, cell(seed=3, status="diverged")])
    found = spread(cells, "val_error_running")
    assert found is not None
    assert (found.mean, found.std, found.values) == (8.0, pytest.approx(2**0.5), (7.0, 9.0))
    assert text(found, cells, 2, "%") == "8.00 ± 1.41 % (2 seeds), 1 diverged"
    assert text(None, cells[3:]) == "1 diverged"
    assert text(None) == "no such cells"
    assert text(spread(cells[:1], lambda record: 2.0 + record.seed)) == "2.0 (1 seed)"
    xs, values = curves(cells, "samples", "val_error_running")
    assert (xs, values) == ([4000.0], [found])


def test_nothing_to_draw_leaves_an_axis_linear_and_without_a_legend() -> None:
    axes = Figure().add_subplot()
    axes.plot([], [])
    log_scale(axes, "y")
    legend(axes)
    assert (axes.get_yscale(), axes.get_legend()) == ("linear", None)
    axes.plot([1, 2], [0.0, 2.0], label="some")
    log_scale(axes, "y")
    legend(axes)
    assert (axes.get_yscale(), axes.get_legend() is None) == ("log", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", claims.known_claims())
@pytest.mark.parametrize("status", ["timeout", "diverged"])
def test_cells_that_all_came_to_nothing_are_judged_and_drawn(
    cell: Callable[..., CellResult], name: str, status: str, recwarn: pytest.WarningsRecorder
) -> None:
    config = {
        "model": {"name": "vgg9", "activation": "tanh", "init_scale": 1, "dropout": 0.0, "per_step": True},
        "optimizer": {"base_lr": 0.1, "trains": "norms"},
        "study": {"name": "normalized_training", "normalizer": "raw", "skew": "feature"},
    }
    cells = [
        cell(norm, 2, seed, status=status, config=config) for norm in ("identity", "batch_norm") for seed in (0, 1)
    ]
    claim = import_module(f"normzoo.claims.{name}")
    # Nets that diverged have not learned, and cannot be compared.
    assert claim.judge(frame(cells)).verdict in ("not measured", "does not hold here", "cannot be told")
    drawn(name, frame(cells), claim.draw)
    assert not recwarn.list


def test_every_claim_has_an_experiment_and_a_judge() -> None:
    from normzoo.commands.claims import read_claims as experiments

    assert [claim.name for claim in experiments()] == claims.known_claims()


def test_verdicts_are_nowhere_in_the_configs() -> None:
    from normzoo.commands.claims import read_claims as experiments

    for found in experiments():
        assert json.dumps(found.quick)
        assert found.statement.endswith(".")
        assert found.statement.count(". ") == 0
        assert "experiment" not in {key for grid in (*found.full, *found.quick) for key in grid}


def test_a_command_that_cannot_be_typed_again_loses_no_claim(tmp_path: Path) -> None:
    """As one that is cut short within its quotes."""
    entry = {"statement": "s", "source": "s", "cells": [], "grids": "full", "command": "normzoo train -m 'a=b"}
    (tmp_path / "claims.json").write_text(json.dumps({"x": entry}))
    (claim,) = read_claims(tmp_path)
    assert (claim.name, claim.command) == ("x", "")
