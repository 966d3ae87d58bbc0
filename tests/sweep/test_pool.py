"""Processes of their own: order, number, deaths, logs and what leaks."""

import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from normzoo.sweep.pool import Job, fork_server, run_jobs

PRELOAD = ["normzoo.sweep.pool", "pytest"]  # what this file imports, once and not in each job


def write(path: Path, text: str) -> None:
    print("on standard output")
    os.write(2, b"on standard error\n")
    path.write_text(text)


def leave(code: int) -> None:
    os._exit(code)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leak(path: Path) -> None:
    path.write_text(os.environ.get("LEAKED", "clean") + os.environ["FOR_JOBS"])
    os.environ["LEAKED"] = "leaked"


def sleep(path: Path, seconds: float) -> None:
    begin = time.monotonic()
    time.sleep(seconds)
    path.write_text(f"{begin} {time.monotonic()}")


def meet(here: Path, there: Path) -> None:
    """Ends well only if both jobs run at the same time."""
    here.touch()
    for _ in range(600):
        if there.exists():
            return
        time.sleep(0.1)
    leave(1)


def run(jobs: list[Job], n_jobs: int = 2) -> dict[int, int]:
    codes: dict[int, int] = {}
    with fork_server(PRELOAD, {"FOR_JOBS": "1"}) as context:
        run_jobs(context, jobs, n_jobs, lambda index: None, lambda index, code: codes.update({index: code}))
    return codes


def test_each_job_runs_once_and_its_output_goes_into_its_log(tmp_path: Path) -> None:
    jobs = [Job(write, (tmp_path / f"{i}.txt", str(i)), tmp_path / f"{i}.log") for i in range(5)]
    assert run(jobs) == dict.fromkeys(range(5), 0)
    for i in range(5):
        assert (tmp_path / f"{i}.txt").read_text() == str(i)
        log = (tmp_path / f"{i}.log").read_text()
        assert "on standard output" in log
        assert "on standard error" in log


def test_a_job_that_dies_leaves_the_others_alone(tmp_path: Path) -> None:
    jobs = [
        Job(leave, (3,), tmp_path / "0.log"),
        Job(kill_itself, (), tmp_path / "1.log"),
        Job(write, (tmp_path / "alive", "yes"), tmp_path / "2.log"),
    ]
    assert run(jobs, n_jobs=1) == {0: 3, 1: -signal.SIGKILL, 2: 0}
    assert (tmp_path / "alive").read_text() == "yes"


def test_no_environment_leaks_from_job_to_job_or_here(tmp_path: Path) -> None:
    jobs = [Job(leak, (tmp_path / str(i),), tmp_path / f"{i}.log") for i in range(3)]
    run(jobs, n_jobs=1)
    assert {(tmp_path / str(i)).read_text() for i in range(3)} == {"clean1"}
    assert "FOR_JOBS" not in os.environ


def test_one_at_a_time_if_told_so(tmp_path: Path) -> None:
    assert run([Job(sleep, (tmp_path / str(i), 0.1), tmp_path / f"{i}.log") for i in range(3)], n_jobs=1)
    spans = [tuple(map(float, (tmp_path / str(i)).read_text().split())) for i in range(3)]
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_two_at_once_if_told_so(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    jobs = [Job(meet, (here, there), tmp_path / "0.log"), Job(meet, (there, here), tmp_path / "1.log")]
    assert run(jobs, n_jobs=2) == {0: 0, 1: 0}


def test_an_interrupt_ends_the_running_jobs(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), fork_server(PRELOAD, {}) as context:
        run_jobs(
            context,
            [Job(sleep, (tmp_path / "woke", 60.0), tmp_path / "0.log")],
            1,
            lambda index: None,
            lambda index, code: None,
            interrupt,
        )
    assert not (tmp_path / "woke").exists()
