"""Long lines are broken on a terminal, and nowhere else."""

import io
import re
import sys
from collections.abc import Callable

import pytest

from normzoo.text import wrapped

Cli = Callable[..., tuple[int, str, str]]
LINE = "norm=instance_norm seed=0  refused: " + "a reason that is long " * 8 + "at /a/path-with-hyphens/" + 90 * "x"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_the_line_as_it_is() -> None:
    assert wrapped(LINE, 27, io.StringIO()) == LINE


@pytest.mark.parametrize(("columns", "indent"), [(100, 27), (66, 4), (10, 4)])
def test_a_terminal_gets_lines_of_its_width_below_each_other(
    monkeypatch: pytest.MonkeyPatch, columns: int, indent: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    first, *others = wrapped(LINE, 27, Terminal()).split("\n")
    assert first.startswith("norm=instance_norm seed=0  refused: a")
    assert {len(line) - len(line.lstrip()) for line in others} == {indent}
    assert max(map(len, [first, *others[:-1]])) <= max(columns, 40)
    assert " ".join([first, *(line.strip() for line in others)]) == LINE  # no word is broken


def test_a_line_that_fits_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert wrapped("cell   state      time", 2, Terminal()) == "cell   state      time"


def test_the_refusals_of_a_dry_run_fit_the_terminal(
    tiny: tuple[str, ...], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    _, out, err = cli("train", "-m", *tiny, "norm=identity,instance_norm", "sweep.dry_run=true", "hydra.sweep.dir=s")
    assert max(map(len, out.splitlines())) <= 90, out + err
    assert re.search(r"^norm=instance_norm +refused$", out, re.M), out
    assert re.search(r"^refused: norm=instance_norm: .*\n  \S", out, re.M), out
