"""Ctrl-C while the command imports, which takes seconds: no traceback; a program that imports normzoo keeps its own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from normzoo import _interrupt
from normzoo.cli import main

# In place of torch: interrupts who imports it, and waits for the end.
TORCH = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(600)
"""


@pytest.mark.parametrize("name", ["normzoo", "train.py"])
def test_control_c_while_torch_is_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / name).write_text("from normzoo.cli import main\nmain()\n")
    done = subprocess.run([sys.executable, str(tmp_path / name), "list"], capture_output=True, text=True)
    if name == "normzoo":
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    else:
        assert done.returncode == -signal.SIGINT
        assert "KeyboardInterrupt" in done.stderr


def test_the_command_takes_it_over_and_nobody_elses() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler, after in ((_interrupt._end, signal.default_int_handler), (signal.SIG_IGN, signal.SIG_IGN)):
            signal.signal(signal.SIGINT, handler)
            _interrupt.handle_again()
            assert signal.getsignal(signal.SIGINT) is after
    finally:
        signal.signal(signal.SIGINT, before)


def test_train_has_it_until_all_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)  # as where it is not installed
    before = signal.signal(signal.SIGINT, _interrupt._end)
    try:
        with pytest.raises(SystemExit):
            main(["train"])
        assert signal.getsignal(signal.SIGINT) is _interrupt._end
    finally:
        signal.signal(signal.SIGINT, before)
