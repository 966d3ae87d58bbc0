"""Processes of real sweeps are killed at random instants, and nothing comes of it but that the sweep takes longer.

A small grid, with cells of one and of two processes that save at every chance, runs while SIGKILL hits a cell, one of
its ranks, its supervisor, the fork server or the sweep itself. A sweep that was killed is started again on its folder;
a grid that is done is begun anew in another one until there have been enough kills.

    NORMZOO_CHAOS_KILLS=50 pytest tests/sweep/test_chaos.py      so many kills; one of each kind otherwise
    NORMZOO_CHAOS_SEED=7 pytest tests/sweep/test_chaos.py        other instants and targets; 0 otherwise
"""

import csv
import io
import json
import os
import random
import signal
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from normzoo.recording import read_recording
from normzoo.results import read_result, read_results
from tests.sweep.real import Sweep, alive, until

SEED = int(os.environ.get("NORMZOO_CHAOS_SEED", "0"))
KINDS = ("sweep", "server", "supervisor", "cell", "rank")
KILLS = int(os.environ.get("NORMZOO_CHAOS_KILLS", str(len(KINDS))))
GRID = (
    "norm=batch_norm,group_norm", "trainer.devices=2,1", "probe=[activation_health]", "model.dropout=0.3",
    "trainer.max_epochs=3", "sweep.checkpoint_every=0", "hydra.launcher.n_jobs=2",
)  # fmt: skip
CELLS = 4
TIMES = ("seconds", "ms_per_step")


def begin(folder: Path, *overrides: str) -> Sweep:
    folder.mkdir(exist_ok=True)
    (folder / "go").touch()  # no cell waits
    return Sweep(folder, *GRID, *overrides)


def outcomes(folder: Path) -> dict[str, Any]:
    """All that the sweep in `folder` has found out, and nothing of how long it took."""
    found: dict[str, Any] = {}
    for result in read_results(folder)[0]:
        assert result.folder is not None
        figures = (result.status, result.world_size, result.metrics, result.curve, result.values_per_statistic)
        arrays = {name: (array.dtype, array.tobytes()) for name, array in read_recording(result.folder).items()}
        found[result.cell] = json.dumps(figures), arrays
    return {**found, "table": [tuple(row.items()) for row in rows(folder / "results.csv")]}


def rows(table: Path) -> list[dict[str, str]]:
    found = list(csv.DictReader(io.StringIO(table.read_text())))
    assert all(None not in row and None not in row.values() for row in found), "a row of another length"
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


def targets(sweep: Sweep) -> dict[str, list[psutil.Process]]:
    """The processes of a sweep by what they are."""
    top = psutil.Process(sweep.process.pid)
    found = {"sweep": [top], "server": [one for one in top.children() if "forkserver" in " ".join(one.cmdline())]}
    for above, kind in pairwise(KINDS[1:]):
        found[kind] = [child for one in found[above] for child in one.children()]
    return found


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if alive(process) and process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


class Chaos:
    """Kills, and looks after each kill whether all that was finished is still there."""

    def __init__(self) -> None:
        self.random = random.Random(SEED)
        self.kills: Counter[str] = Counter()
        self.kinds: Iterator[str] = (kind for _ in iter(int, 1) for kind in self.random.sample(KINDS, len(KINDS)))
        self.kind = next(self.kinds)
        self.finished: dict[Path, bytes] = {}
        self.continued = 0  # sweeps that found a half-done cell

    def strike(self, sweep: Sweep) -> None:
        """Kill one process of the kind whose turn it is, unless there is none at that instant."""
        early = self.kind in ("sweep", "server") and self.random.random() < 0.2  # while it starts or plans
        awaited = self.kind if early else max("supervisor", self.kind, key=KINDS.index)
        try:
            while not targets(sweep)[awaited]:
                time.sleep(0.05)
                if sweep.process.poll() is not None:
                    return
            time.sleep(self.random.uniform(0.0, 4.0 if early else 1.5))
            victim = self.random.choice(targets(sweep)[self.kind])
            victim.kill()
        except (psutil.NoSuchProcess, IndexError):  # it has ended meanwhile
            return
        self.kills[self.kind] += 1
        self.kind = next(self.kinds)

    def look(self, folder: Path) -> None:
        """Every file is whole, and the results that were finished are the same to the byte."""
        for path, content in self.finished.items():
            assert path.read_bytes() == content, f"{path} was finished, and has been written again"
        for path in folder.glob("s/*/result.json"):
            if read_result(path).status == "ok":
                self.finished[path] = path.read_bytes()
        for path in folder.glob("s/*/recording.npz"):
            assert read_recording(path.parent)
        for path in folder.glob("s/*.csv"):
            rows(path)
        for path in folder.glob("s/*/checkpoint.ckpt"):
            try:
                with zipfile.ZipFile(path) as archive:
                    assert archive.testzip() is None
            except FileNotFoundError:  # of a cell that has ended just now
                continue

    def run(self, folder: Path) -> None:
        """The grid, killed and started again until all of it is done and reported."""
        code: int | None = None
        while code != 0:
            sweep = begin(folder, "sweep.retry=failed")
            while sweep.process.poll() is None and self.kills.total() < KILLS:
                self.strike(sweep)
                self.look(folder)
            code = sweep.end()
            self.continued += "from a checkpoint" in sweep.said()
            if code == -signal.SIGKILL:
                until(lambda: not processes_in(folder), 20.0)
            self.look(folder)
            statuses = [result.status for result in read_results(folder / "s")[0]] if (folder / "s").exists() else []
            assert code in (0, 1, -signal.SIGKILL), sweep.said()
            assert (code == 0) <= (statuses == ["ok"] * CELLS), sweep.said()
            assert "Traceback" not in sweep.said(), sweep.said()


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux does the kernel end what a killed process leaves")
def test_nothing_is_lost_and_the_table_is_that_of_an_undisturbed_sweep(tmp_path: Path) -> None:
    sweep = begin(tmp_path / "undisturbed")
    assert sweep.end() == 0, sweep.said()
    expected = outcomes(tmp_path / "undisturbed" / "s")
    assert len(expected["table"]) == CELLS
    chaos, number = Chaos(), 0
    while chaos.kills.total() < KILLS:
        folder = tmp_path / f"killed{number}"
        chaos.run(folder)
        assert outcomes(folder / "s") == expected
        until(lambda folder=folder: not processes_in(folder), 20.0)
        kept = {path.name for path in folder.glob("s/*/*")}
        assert kept == {".hydra", "cell.log", "recording.npz", "result.json"}
        number += 1
    assert set(chaos.kills) == set(KINDS) or len(KINDS) > KILLS
    print(f"{dict(chaos.kills)} killed in {number} grids; {chaos.continued} sweeps went on from a checkpoint")
