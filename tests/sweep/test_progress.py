"""What a sweep says while it runs."""

import io

import pytest

from normzoo.sweep import progress as module
from normzoo.sweep.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_line_names_cell_outcome_and_time_left(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(["a", "b", "c"], [100.0, 100.0, 200.0], 1, stream)
    assert progress.time_left() == "?:??"
    progress.start(0)
    clock.now = 30.0
    progress.end(0, "error 7.00 %")
    # 100 took 30 seconds; 300 are left.
    assert stream.getvalue() == "cell 1/3  a  error 7.00 %  30.0 s  1:30 left\n"
    progress.start(1)
    clock.now = 50.0
    assert progress.time_left() == "1:10"
    progress.end(1, "refused")
    progress.start(2)
    clock.now = 90.0
    progress.end(2, "error 1.00 %")
    assert stream.getvalue().splitlines()[-1] == "cell 3/3  c  error 1.00 %  40.0 s  0:00 left"


def test_two_at_once_halve_the_time_left(clock: Clock) -> None:
    progress = Progress(["a", "b", "c"], [1.0, 1.0, 1.0], 2, io.StringIO())
    progress.start(0)
    progress.start(1)
    clock.now = 10.0
    progress.end(0, "done")
    assert progress.time_left() == "0:05"  # b should be done by now, and c takes one of two places


def test_the_live_line_shows_errors_so_far_on_a_terminal_only(clock: Clock) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in (Terminal(), io.StringIO()):
        progress = Progress(["a", "b"], [1.0, 1.0], 2, stream)
        progress.start(0)
        progress.start(1)
        progress.show_running(["12.0 %", "-"])
        expected = "0/2 done, ?:?? left, running: a 12.0 % | b -" if stream.isatty() else ""
        assert stream.getvalue().endswith(expected)
        assert bool(stream.getvalue()) == stream.isatty()
