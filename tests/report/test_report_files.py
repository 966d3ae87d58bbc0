"""The report as a whole: what it writes, from finished, half-finished, tiny, broken and foreign folders."""

import csv
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from normzoo.errors import UserError
from normzoo.report import report
from normzoo.results import FILE_NAME, CellResult, write_result

Maker = Callable[..., CellResult]
Sweep = Callable[..., Path]
FILES = ("results.csv", "summary.md", "small_batch.png", "small_batch.svg", "report.html")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_whole_experiment_is_reported(default_sweep: Path) -> None:
    made = report(default_sweep, width=100)
    assert [path.name for path in (made.csv, made.summary, made.png, made.svg, made.page)] == list(FILES)
    assert sorted(path.name for path in default_sweep.iterdir() if path.is_file()) == sorted(FILES)
    assert made.png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(made.svg).getroot().tag.endswith("svg")
    assert [check.verdict for check in made.checks] == ["holds"] * 3
    assert made.failed == 0
    assert max(map(len, made.table.splitlines())) <= 100
    assert made.table in made.text
    assert str(made.png) in made.text

    summary = made.summary.read_text()
    for text in (
        "168 ok, 18 refused",
        "mnist5k at 8×8 and 16×16 (4,000 training samples)",
        "3 seeds (0–2)",
        "no machine (generated)",
        "torch 0",
        "recomputed statistics",
        "by placement and normalization batch",
        "each time that more samples share a statistic",
        "Wu & He, Group Normalization",
        "34.7",
        "## Refused combinations",
        "batch 2, 4, 8, 16, 32, 64, 3 seeds (0–2), 18 cells",
        "one value per statistic",
    ):
        assert text in summary
    assert "with an error" not in summary
    assert "## Files left out" not in summary


def test_the_csv_has_a_row_a_cell_and_the_agreed_columns(default_sweep: Path) -> None:
    rows = rows_of(report(default_sweep).csv)
    assert len(rows) == 186
    assert list(rows[0])[:15] == [
        "norm",
        "batch_size_per_device",
        "normalization_batch",
        "placement",
        "model",
        "data",
        "image_size",
        "devices",
        "seed",
        "status",
        "reason",
        "val_error_running",
        "val_error_population",
        "val_error_batch",
        "train_error",
    ]
    assert {"values_per_statistic_min", "seconds", "ms_per_step", "cell", "folder", "norm.group_size"} <= set(rows[0])
    first = rows[0]
    assert (first["norm"], first["batch_size_per_device"], first["normalization_batch"]) == ("batch_norm", "2", "2")
    assert first["values_per_statistic_min"] == "2"
    assert (default_sweep / first["folder"] / FILE_NAME).is_file()
    refused = [row for row in rows if row["status"] == "refused"]
    assert all(row["norm"] == "instance_norm" and row["val_error_running"] == "" and row["reason"] for row in refused)


@pytest.mark.slow
def test_a_second_report_replaces_the_first_and_is_the_same(default_sweep: Path) -> None:
    first = {name: data for name in FILES if (data := (report(default_sweep).csv.parent / name).read_bytes())}
    report(default_sweep)
    assert {name: (default_sweep / name).read_bytes() for name in FILES} == first


def test_a_half_finished_sweep_is_reported(cell: Maker, sweep: Sweep) -> None:
    folder = sweep([cell("batch_norm", 2, 0, 60.0), cell("batch_norm", 2, 1, 55.0), cell("batch_norm", 32, 0, 8.0)])
    for name in ("begun", "also_begun"):
        (folder / name / ".hydra").mkdir(parents=True)
    made = report(folder)
    summary = made.summary.read_text()
    assert "2 cells started and not finished" in summary
    assert "57.5 ± 3.5" in summary
    assert "8.0 (1 seed)" in summary
    assert len(rows_of(made.csv)) == 3


@pytest.mark.parametrize("status", ["ok", "diverged", "error", "refused"])
def test_a_single_cell_is_reported(status: str, cell: Maker, sweep: Sweep) -> None:
    made = report(sweep([cell(status=status, reason=None if status == "ok" else "because")]))
    assert f"1 cell: 1 {status}" in made.table
    assert "## Checks" not in made.summary.read_text()
    assert "needs 2 and 32" not in made.text
    assert (made.png.name, made.svg.name) == ("errors.png", "errors.svg")
    assert all(path.stat().st_size > 0 for path in (made.csv, made.summary, made.png, made.svg, made.page))


def test_cells_that_came_to_grief_are_listed_with_their_reason(cell: Maker, sweep: Sweep) -> None:
    cells = [
        cell("batch_norm", 2, 0, status="diverged", reason="the loss was not finite by step 7"),
        cell("batch_norm", 2, 1, 50.0),
        cell("batch_norm", 4, 0, status="error", reason="RuntimeError: boom\n  at | layer 3"),
        cell("group_norm", 4, 0, status="killed", reason="its process ended with signal 9"),
        cell("group_norm", 8, 0, status="oom", reason="12 GiB asked"),
        cell("group_norm", 8, 1, status="timeout", reason="over 60 s"),
        cell("instance_norm", 8, 0, status="refused", reason="shape (8, 64, 1, 1)"),
        cell("instance_norm", 4, 0, status="refused", reason="shape (4, 64, 1, 1)"),
    ]
    made = report(sweep(cells))
    summary = made.summary.read_text()
    assert made.failed == 4
    assert "50.0 (1 diverged)" in summary
    for text in ("not finite by step 7", "RuntimeError: boom at | layer 3", "signal 9", "12 GiB asked", "over 60 s"):
        assert text in summary
    assert summary.count("`instance_norm`, placement") == 1
    assert {row["status"] for row in rows_of(made.csv)} == {cell.status for cell in cells}


def test_unreadable_files_are_named_beside_the_rest(cell: Maker, sweep: Sweep) -> None:
    folder = sweep([cell()])
    for name, text in {"cut": '{"schema": 1', "foreign": '{"accuracy": 1}'}.items():
        (folder / name).mkdir()
        (folder / name / FILE_NAME).write_text(text)
    summary = report(folder).summary.read_text()
    assert "## Files left out" in summary
    assert "2 files" in summary
    assert str(folder / "cut" / FILE_NAME) in summary
    assert str(folder / "foreign" / FILE_NAME) in summary


def test_a_cell_found_twice_counts_once(cell: Maker, sweep: Sweep) -> None:
    folder = sweep([cell(error=8.0)])
    write_result(folder / "again", cell(error=9.0))
    write_result(folder / "died", cell(status="killed"))
    made = report(folder)
    assert len(rows_of(made.csv)) == 1
    assert "2 records of a cell that has another" in made.summary.read_text()


@pytest.mark.parametrize("name", ["empty", "nowhere", "foreign"])
def test_a_folder_without_results_is_a_clear_error(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    if name != "nowhere":
        folder.mkdir()
    if name == "foreign":
        (folder / FILE_NAME).write_text('{"accuracy": 1}')
    with pytest.raises(UserError) as caught:
        report(folder)
    assert str(folder) in str(caught.value)
    assert "give the folder" in str(caught.value)
    assert ("not a normzoo result" in str(caught.value)) == (name == "foreign")
    assert not folder.exists() or not any((folder / file).exists() for file in FILES)


def test_a_folder_that_cannot_be_written_is_a_clear_error(
    cell: Maker, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep([cell(), cell(batch=4)])
    report(folder)
    before = {name: (folder / name).read_bytes() for name in FILES}

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*results\.csv: No space left"):
        report(folder)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_without_matplotlib_the_tables_are_written(cell: Maker, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep([cell()])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"normzoo\[sweep\]"):
        report(folder)
    assert (folder / "results.csv").is_file()
    assert (folder / "summary.md").is_file()


def test_importing_the_report_draws_nothing_in() -> None:
    code = "import sys, normzoo.report; print({'pandas', 'matplotlib', 'lightning', 'hydra'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_thousands_of_cells_are_reported(cell: Maker, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    cells = [
        cell(norm, batch, seed, 8.0 + seed % 7 / 10)
        for norm in ("batch_norm", "group_norm", "identity", "layer_norm")
        for batch in (2, 4, 8, 16, 32)
        for seed in range(100)
    ]
    made = report(sweep(cells))
    assert len(rows_of(made.csv)) == 2000
    assert "100 seeds (0–99)" in made.summary.read_text()


class Page(HTMLParser):
    """What a page shows, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.fetched: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v and not v.startswith("#")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_says_what_the_summary_says_and_fetches_nothing(default_sweep: Path, cell: Maker) -> None:
    write_result(default_sweep / "hurt", cell("batch_norm", 4, 9, status="error", reason="<b>a & b</b> | c"))
    made = report(default_sweep)
    text, summary = made.page.read_text(), made.summary.read_text()
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert page.seen["svg"] == 1
    assert page.seen["h2"] == summary.count("\n## ")
    assert page.seen["h3"] == summary.count("\n### ")
    assert page.seen["table"] == summary.count("\n| ---")
    assert "<b>a & b</b> | c" in page.words
    assert "![" not in page.words
    assert "**" not in page.words
    for line in summary.splitlines():
        for cell_text in line.split("|") if line.startswith("|") and "---" not in line else [line.lstrip("#- ")]:
            plain = re.sub(r"\\([^\w\s])", r"\1", cell_text.strip(" \\").replace("`", "").replace("**", ""))
            assert plain.startswith("![") or set(plain) <= set("|-: ") or plain in page.words


def test_a_figure_of_another_name_does_not_stay(cell: Maker, sweep: Sweep) -> None:
    first = report(sweep([cell("batch_norm", 2)]))
    again = report(sweep([cell("batch_norm", 2), cell("batch_norm", 8)]))
    assert (first.png.name, again.png.name) == ("errors.png", "small_batch.png")
    assert sorted(path.name for path in again.png.parent.glob("*.[ps][nv]g")) == ["small_batch.png", "small_batch.svg"]
