"""The table of a running sweep, on terminals of all kinds."""

import contextlib
import io
import logging
import re
import sys

import pytest
from rich.console import Console

from normzoo.results import CellResult
from normzoo.sweep.live_table import LiveTable, can_draw
from normzoo.sweep.progress import Progress

LABELS = [
    f"norm={norm} batch_size_per_device={batch} seed=0" for norm in ("batch_norm", "group_norm") for batch in (2, 8)
]
NORMS = ["batch_norm", "batch_norm", "group_norm", "group_norm"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 80 × 24 in a plain environment."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


def ok(error: float) -> CellResult:
    return CellResult(cell="c", status="ok", config={}, metrics={"val_error_running": error})


KILLED = CellResult(cell="c", status="killed", config={}, reason="signal 9")


def a_sweep(stream: io.StringIO | None = None) -> LiveTable:
    """One cell ended well, one badly, one runs."""
    progress = LiveTable(LABELS, [1.0] * 4, 2, NORMS, stream or io.StringIO())
    progress.start(0)
    progress.end(0, ok(51.0))
    progress.start(1)
    progress.end(1, KILLED)
    progress.start(2)
    progress.show_running(["12.3 %"])
    return progress


def rendered(progress: LiveTable, width: int, height: int) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, record=True)
    console.print(progress)
    return console.export_text()


def test_the_table_says_what_runs_what_is_best_and_what_failed() -> None:
    text = rendered(a_sweep(), 100, 30)
    for words in (
        r"2/4 cells  \d:\d\d left  \d:\d\d gone",
        r"norm=group_norm batch_size_per_device=2 seed=0 +12\.3 % +0:00",
        r"batch_norm +2/2 +51\.00 % +1  batch_size_per_device=2",
        r"group_norm +0/2 +-",
        r"failed or diverged: 1",
        r"norm=batch_norm batch_size_per_device=8 seed=0 +killed: signal 9",
    ):
        assert re.search(words, text), words


@pytest.mark.parametrize("width", [8, 20, 40, 71, 72, 120])
@pytest.mark.parametrize("height", [4, 12, 50])
def test_no_line_is_wider_than_the_terminal(width: int, height: int) -> None:
    lines = rendered(a_sweep(), width, height).splitlines()
    assert lines
    assert max(map(len, lines)) <= width


def test_many_norms_and_jobs_are_cut_to_the_height() -> None:
    norms = [f"norm_{i}" for i in range(60)]
    progress = LiveTable(norms, [1.0] * 60, 60, norms, io.StringIO())
    for index in range(60):
        progress.start(index)
        if index % 2:
            progress.end(index, KILLED if index % 3 == 0 else ok(float(index)))
    lines = rendered(progress, 100, 30).splitlines()
    assert len(lines) <= 30 + 3  # an "and so many more" for each part
    assert "norm_1 " in "\n".join(lines)
    assert re.search(r"and \d+ more", "\n".join(lines))


def test_lines_and_logs_stay_above_the_table(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    log, handler = logging.getLogger("normzoo.test_live"), logging.StreamHandler(terminal)
    log.addHandler(handler)
    try:
        with a_sweep(terminal) as progress:
            print("printed")
            log.error("said by the log")
            progress.end(2, ok(6.0))
            assert handler.stream is not terminal
    finally:
        log.removeHandler(handler)
    assert handler.stream is sys.stdout is terminal
    written = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", terminal.getvalue())
    places = [written.index(text) for text in ("printed\n", "said by the log\n", "cell 3/4  norm=group_norm")]
    assert sorted(places) == places
    assert places[-1] < written.rindex("3/4 cells")
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1  # cursor


def test_a_file_and_a_terminal_that_cannot_move_its_cursor_get_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    for stream in (terminal, io.StringIO()):
        assert not can_draw(stream)
        with Progress(["a"], [1.0], 1, ["n"], stream) as progress:
            progress.start(0)
            progress.show_running(["3.0 %"])
            progress.end(0, ok(1.0))
        assert re.fullmatch(r"cell 1/1  a  error 1.00 %  0\.\d s  0:00 left\n", stream.getvalue())


def test_a_file_gets_lines_even_if_colours_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not can_draw(io.StringIO())


def test_a_sweep_without_cells_to_run_has_a_table(terminal: Terminal) -> None:
    with LiveTable([], [], 1, [], terminal):
        pass
    assert "0/0 cells" in terminal.getvalue()


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_are_left_out_where_they_are_not_wanted(
    no_color: bool, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    with a_sweep(terminal) as progress:
        progress.start(3)
    coloured = re.search(r"\x1b\[(?:[0-9;]*;)?3[0-9](?:;[0-9;]*)?m", terminal.getvalue())
    assert bool(coloured) != no_color


def test_the_table_goes_and_the_streams_come_back_whatever_happens(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    assert can_draw(terminal)
    with contextlib.suppress(KeyboardInterrupt), a_sweep(terminal):
        assert sys.stdout is not terminal
        raise KeyboardInterrupt
    assert sys.stdout is terminal
    assert terminal.getvalue().count("\x1b[?25h") == 1
