"""Real sweeps: `normzoo train -m` in processes of its own, with cells that wait at a gate until they are let on."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAM = "from normzoo.cli import main; main()"
TINY = (
    "data=synthetic", "data.train_size=48", "data.val_size=20", "data.image_size=8", "trainer=cpu",
    "batch_size_per_device=8", "trainer.max_epochs=2", "model._target_=gated.Gated", "hydra.sweep.dir=s",
)  # fmt: skip
# `Gated` is imported by the cells from the folder that the sweep runs in.
GATED = '''
import os
import time
from pathlib import Path

from normzoo.models.plain_cnn import PlainCNN

HERE = Path(__file__).parent  # an engine may run its cells anywhere


class Gated(PlainCNN):
    """Notes that it is planned or trains, which waits until the file `go` is there."""

    def forward(self, x):
        if x.device.type == "meta":
            (HERE / "planned").touch()
        if x.device.type != "meta" and self.training and not hasattr(self, "noted"):
            self.noted = True
            with open(HERE / "started", "a") as stream:
                stream.write(f"{os.getpid()}\\n")
            for _ in range(20_000):  # and not for ever, should its test be gone
                if (HERE / "go").exists():
                    break
                time.sleep(0.01)
        return super().forward(x)
'''


class Sweep:
    """One sweep of gated cells in `folder`.

    Args:
        folder: Where it runs; it writes into `s` below.
        overrides: Beyond those that make the cells tiny, or `command` as it was printed.
    """

    def __init__(self, folder: Path, *overrides: str, command: str | None = None) -> None:
        (folder / "gated.py").write_text(GATED)
        arguments = shlex.split(command)[1:] if command else ["train", "-m", *TINY, *overrides]
        self.folder, self.output = folder, folder / f"output{time.monotonic_ns()}"
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments], cwd=folder, stdout=stream, stderr=stream,
                stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip

    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, words: str) -> None:
        until(lambda: words in self.said() or self.process.poll() is not None, 120.0)
        assert words in self.said(), self.said()

    def end(self) -> int:
        """Wait for its end; its exit code."""
        try:
            return self.process.wait(180.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the sweep does not end:\n{self.said()}") from None

    def below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def control_c(self) -> None:
        """To every process of the terminal's foreground group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)


def started(folder: Path) -> list[int]:
    """The processes of cells that have begun to train."""
    path = folder / "started"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
