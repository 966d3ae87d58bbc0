"""`normzoo ... | head` ends without a word."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from normzoo.cli import main
from normzoo.commands.broken_pipe import to_any_reader


def closed_pipe() -> io.TextIOWrapper:
    """A stream whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return io.TextIOWrapper(os.fdopen(writer, "wb"), write_through=False)


def test_what_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = closed_pipe(), closed_pipe()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with to_any_reader():
        print("a line", flush=True)
        sys.stderr.write("a word\n" * 20_000)  # more than a buffer holds
        print("what is left in the buffer")
        assert not sys.stdout.isatty()
    assert (sys.stdout, sys.stderr) == (out, err)
    out.close()  # writes into nothing
    err.close()


def lost_terminal() -> io.TextIOWrapper:
    """A stream onto a terminal that has been closed."""
    above, below = os.openpty()
    os.close(above)
    return io.TextIOWrapper(os.fdopen(below, "wb", buffering=0), write_through=True)


def full_disk() -> io.TextIOWrapper:
    return io.TextIOWrapper(open("/dev/full", "wb"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system feigns no full disk")
@pytest.mark.parametrize("stream", [closed_pipe, lost_terminal, full_disk])
def test_what_cannot_be_written_ends_no_sweep_and_is_an_error_of_a_command_that_prints(
    stream: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", stream())
    with to_any_reader():
        print("a line" * 5000, flush=True)
        print("another")
    monkeypatch.setattr(sys, "stdout", stream())
    if stream is closed_pipe:
        main(["list"])
        return
    with pytest.raises(SystemExit, match="2"):
        main(["list"])


def test_streams_that_were_closed_before_python_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `>&-`, or by what starts programs without a terminal."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    main(["list"])
    assert (sys.stdout, sys.stderr) == (None, None)


@pytest.mark.parametrize(
    "command",
    [("list",), ("show", "GN"), ("claims", "--list"), ("train", "-m", "seed=0,1", "sweep.dry_run=true")],
    ids=" ".join,
)
def test_a_command(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    stream: Any = closed_pipe()
    monkeypatch.setattr(sys, "stdout", stream)
    main(command)
    assert capfd.readouterr().err == ""
