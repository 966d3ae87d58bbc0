"""Run sweeps as commands in separate processes, and read when their cells ended."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normzoo.errors import UserError
from normzoo.results import FILE_NAME, CellResult, read_result
from normzoo.resume_command import hydra_quoted

TRAIN = "import sys; from normzoo.cli import main; sys.argv[0] = 'normzoo'; main()"


@dataclass(frozen=True)
class Ended:
    """A cell that left a record, and when it did, in seconds of the clock on the wall."""

    at: float
    result: CellResult


def run(command: Sequence[str], folder: Path, accepted: Sequence[int] = (0,)) -> float:
    """Run a command in `folder` with a user's default environment, and return the seconds it took.

    Args:
        command: Program and arguments.
        folder: Working directory.
        accepted: Exit codes that count as success.

    Raises:
        UserError: If it failed; with its last lines.
    """
    unset = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HYDRA_FULL_ERROR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode not in accepted:
        last = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise UserError(f"exit code {done.returncode} of {' '.join(command[-6:])}; its last lines:\n{last}")
    return seconds


def sweep(overrides: Sequence[str], folder: Path, accepted: Sequence[int] = (0,)) -> tuple[float, list[Ended]]:
    """Run `normzoo train -m` into `folder`; return its seconds, and its cells in the order they ended."""
    folder.mkdir(parents=True)
    target = f"hydra.sweep.dir={hydra_quoted(str(folder))}"
    seconds = run([sys.executable, "-c", TRAIN, "train", "-m", *overrides, target], folder, accepted)
    return seconds, ended(folder)


def ended(folder: Path) -> list[Ended]:
    """Return the cells of a sweep folder in the order they ended."""
    files = folder.glob(f"*/{FILE_NAME}")
    return sorted((Ended(file.stat().st_mtime, read_result(file)) for file in files), key=lambda one: one.at)
