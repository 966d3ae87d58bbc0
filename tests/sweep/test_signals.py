"""Ctrl-C once and twice, SIGTERM and SIGKILL to real sweeps: what ends, what is left, and how it goes on."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from normzoo.results import read_results
from tests.environments import RAY, RAY_OPTIONS
from tests.sweep.real import Sweep, alive, started, until


def go_on_command(said: str) -> str:
    return next(line.strip() for line in said.splitlines() if line.startswith("  normzoo train"))


def nothing_half_done(folder: Path) -> None:
    assert [str(path) for path in folder.rglob("*") if path.name.endswith(".tmp") or ".probe" in path.name] == []
    assert read_results(folder)[1] == []


def goes_on(folder: Path, command: str, cells: int) -> None:
    (folder / "go").touch()
    sweep = Sweep(folder, command=command)
    assert sweep.end() == 0, sweep.said()
    results = read_results(folder / "s")[0]
    assert [result.status for result in results] == ["ok"] * cells
    assert len((folder / "s" / "results.csv").read_text().splitlines()) == cells + 1


@pytest.mark.slow
def test_control_c_once_lets_the_running_cell_end(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "seed=0,1,2", "hydra.launcher.n_jobs=1")
    until(lambda: started(tmp_path), 120.0)
    sweep.control_c()
    sweep.wait_for("interrupted: 1 running cell finishes, no more start; Ctrl-C again stops at once")
    (tmp_path / "go").touch()
    assert sweep.end() == 130, sweep.said()
    assert "2 cells are left" in sweep.said()
    (first,) = read_results(tmp_path / "s")[0]
    assert first.status == "ok"
    assert first.folder is not None
    record = (first.folder / "result.json").read_bytes()
    assert len((tmp_path / "s" / "results.csv").read_text().splitlines()) == 2  # the report is there, with one row
    nothing_half_done(tmp_path / "s")
    goes_on(tmp_path, go_on_command(sweep.said()), 3)
    assert (first.folder / "result.json").read_bytes() == record


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        pytest.param("Ctrl-C twice", marks=pytest.mark.slow),
        "SIGHUP",  # as a terminal sends it that is closed, to all processes in its foreground
        pytest.param("SIGTERM", marks=[pytest.mark.slow]),
    ],
)
def test_cells_are_stopped_at_once(tmp_path: Path, how: str) -> None:
    sweep = Sweep(tmp_path, "seed=0,1", "hydra.launcher.n_jobs=1")
    until(lambda: started(tmp_path), 120.0)
    below = sweep.below()
    assert started(tmp_path)[0] in {process.pid for process in below}
    if how == "SIGTERM":
        os.kill(sweep.process.pid, signal.SIGTERM)
    elif how == "SIGHUP":
        os.killpg(sweep.process.pid, signal.SIGHUP)
    else:
        sweep.control_c()
        sweep.wait_for("interrupted: 1 running")
        sweep.control_c()
    assert sweep.end() == 130, sweep.said()
    until(lambda: not any(map(alive, below)))
    assert "2 cells are left" in sweep.said()
    assert "Traceback" not in sweep.said()
    assert read_results(tmp_path / "s")[0] == []
    nothing_half_done(tmp_path / "s")
    goes_on(tmp_path, go_on_command(sweep.said()), 2)


def test_a_killed_sweep_takes_its_cells_and_their_ranks_with_it(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "seed=0", "trainer.devices=2", "batch_size_per_device=4")
    until(lambda: len(started(tmp_path)) == 2, 120.0)
    below = sweep.below()
    assert set(started(tmp_path)) <= {process.pid for process in below}
    sweep.process.kill()
    assert sweep.end() == -signal.SIGKILL
    until(lambda: not any(map(alive, below)))


# The library of each engine whose cells run below the sweep that starts it.
ENGINES = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_cells_of_an_engine_end_with_the_sweep(
    tmp_path: Path, engine: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(ENGINES[engine])
    for name, value in RAY.items():
        monkeypatch.setenv(name, value)
    options = RAY_OPTIONS if engine == "ray" else ()
    sweep = Sweep(tmp_path, "seed=0,1", f"hydra/launcher={engine}", *options)
    below: list[psutil.Process] = []
    try:
        until(lambda: started(tmp_path) or sweep.process.poll() is not None, 240.0)
        assert sweep.process.poll() is None, sweep.said()
        # Ray's own agents may take some minutes to notice that their cluster is gone.
        below = [process for process in sweep.below() if "Agent" not in " ".join(process.cmdline())]
        assert started(tmp_path)[0] in {process.pid for process in below}
        os.kill(sweep.process.pid, number)
        assert sweep.end() == (-signal.SIGKILL if number == signal.SIGKILL else 130), sweep.said()
        until(lambda: not any(map(alive, below)), 30.0)
    finally:
        sweep.process.kill()
        for process in filter(alive, below):
            process.kill()
    assert read_results(tmp_path / "s")[0] == []
    nothing_half_done(tmp_path / "s")
    if number != signal.SIGKILL:
        assert "this command resumes it" in sweep.said()


@pytest.mark.slow
def test_control_c_while_cells_are_planned(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "seed=range(20000)")
    until(lambda: (tmp_path / "planned").exists(), 120.0)
    sweep.control_c()
    assert sweep.end() == 130, sweep.said()
    assert started(tmp_path) == []
    assert "Traceback" not in sweep.said()
