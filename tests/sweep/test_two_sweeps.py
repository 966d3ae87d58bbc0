"""Two sweeps into one folder at the same time share the work."""

from pathlib import Path

import pytest

from normzoo.results import read_results
from tests.sweep.real import Sweep, started, until

pytestmark = pytest.mark.slow


def test_each_cell_runs_once_and_both_report_all(tmp_path: Path) -> None:
    sweeps = [Sweep(tmp_path, "seed=range(4)", "hydra.launcher.n_jobs=1") for _ in range(2)]
    until(lambda: len(started(tmp_path)) == 2, 120.0)  # one in each: neither runs the other's
    (tmp_path / "go").touch()
    assert [sweep.end() for sweep in sweeps] == [0, 0], [sweep.said() for sweep in sweeps]
    results, unreadable = read_results(tmp_path / "s")
    assert (len(results), {result.status for result in results}, unreadable) == (4, {"ok"}, [])
    assert len(started(tmp_path)) == 4
    assert len((tmp_path / "s" / "results.csv").read_text().splitlines()) == 5
    told = [sweep.said().count("by another sweep") for sweep in sweeps]
    assert sum(told) == 4
    assert all(told)
    assert all("cell 4/4" in sweep.said() for sweep in sweeps)


def test_a_sweep_waits_for_the_cell_of_another_and_runs_it_when_that_is_killed(tmp_path: Path) -> None:
    first = Sweep(tmp_path, "seed=0", "hydra.launcher.n_jobs=1")
    until(lambda: started(tmp_path), 120.0)
    second = Sweep(tmp_path, "seed=0", "hydra.launcher.n_jobs=1")
    second.wait_for("waiting for 1 cell that another sweep into this folder runs")
    assert len(started(tmp_path)) == 1
    first.process.kill()
    first.end()
    until(lambda: len(started(tmp_path)) == 2)
    (tmp_path / "go").touch()
    assert second.end() == 0, second.said()
    assert [result.status for result in read_results(tmp_path / "s")[0]] == ["ok"]
