"""What a sweep prints while it runs."""

import io

import pytest

from normzoo.results import CellResult
from normzoo.sweep import progress as module
from normzoo.sweep.progress import Best, Progress
from normzoo.text import clock as shown


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


def ok(error: float | None = None) -> CellResult:
    return CellResult(cell="c", status="ok", config={}, metrics={"val_error_running": error})


def ended(status: str, reason: str) -> CellResult:
    return CellResult(cell="c", status=status, config={}, reason=reason)


def test_a_line_names_cell_outcome_and_time_left(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(["a", "b", "c"], [100.0, 100.0, 200.0], 1, ["n"] * 3, stream)
    assert progress.time_left() == "?:??"
    progress.start(0)
    clock.now = 30.0
    progress.end(0, ok(7.0))
    # 100 took 30 seconds; 300 are left.
    assert stream.getvalue() == "cell 1/3  a  error 7.00 %  30.0 s  1:30 left\n"
    progress.start(1)
    clock.now = 50.0
    assert progress.time_left() == "1:10"
    progress.end(1, ended("refused", "why"))
    progress.start(2)
    clock.now = 90.0
    progress.end(2, ok(1.0))
    assert stream.getvalue().splitlines()[-1] == "cell 3/3  c  error 1.00 %  40.0 s  0:00 left"


def test_two_at_once_halve_the_time_left(clock: Clock) -> None:
    progress = Progress(["a", "b", "c"], [1.0, 1.0, 1.0], 2, ["n"] * 3, io.StringIO())
    progress.start(0)
    progress.start(1)
    clock.now = 10.0
    progress.end(0, ok())
    assert progress.time_left() == "0:05"  # b should be done by now, and c takes one of two places


def test_the_best_error_of_a_norm_is_a_mean_over_seeds() -> None:
    labels = [f"norm={norm} batch={batch} seed={seed}" for norm in "ab" for batch in (2, 8) for seed in (0, 1)]
    progress = Progress(labels, [1.0] * 8, 1, list("aaaabbbb"), io.StringIO())
    for index, error in enumerate([1.0, 9.0, 4.0, 5.0, 3.0, None]):
        progress.start(index)
        progress.end(index, ended("error", "why") if error is None else ok(error))
    assert list(progress.best()) == [Best("b", 2, 4, 3.0, 1, "batch=2"), Best("a", 4, 4, 4.5, 2, "batch=8")]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (89.6, "1:30"), (3599, "59:59"), (7265, "2:01:05")])
def test_times_are_minutes_and_seconds(seconds: float, text: str) -> None:
    assert shown(seconds) == text


def test_no_label_and_no_outcome_acts_on_the_terminal() -> None:
    stream = io.StringIO()
    progress = Progress(["norm=\x1b[2J\udcff"], [1.0], 1, ["\x1b[2J"], stream)
    progress.start(0)
    progress.end(0, ended("error", "\x1b]0;title\x07\x08more"))
    assert stream.getvalue().startswith("cell 1/1  norm=\\x1b[2J\\xff  error: \\x1b]0;title\\x07\\x08more  ")
    assert "\x1b" not in "".join([*progress.failures[0], *(best.norm for best in progress.best())])
