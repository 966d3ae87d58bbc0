"""Processes of their own: order, number, deaths, logs and what leaks."""

import contextlib
import itertools
import json
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from normzoo.errors import UserError
from normzoo.sweep.cell_lock import CellLock, Elsewhere
from normzoo.sweep.devices import Leases
from normzoo.sweep.fork_server import fork_server, stop_server
from normzoo.sweep.job import Job
from normzoo.sweep.job import run as follow
from normzoo.sweep.pool import Pool
from normzoo.sweep.signals import Stop
from normzoo.sweep.supervisor import Ending, Limits
from normzoo.training.config import Resources
from normzoo.training.gpu_memory import CELLS_PER_GPU

PRELOAD = ["normzoo.sweep.pool", "pytest"]  # what this file imports, once and not in each job
CORES = range(8)
Run = Callable[..., dict[int, Ending]]


def write(path: Path, text: str) -> None:
    print("on standard output")
    os.write(2, b"on standard error\n")
    path.write_text(text)


def leave(code: int) -> None:
    os._exit(code)


def kill_itself(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def interrupted_at_birth(*orders: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    follow(*orders)


def leak(path: Path) -> None:
    path.write_text(os.environ.get("LEAKED", "clean") + os.environ["OMP_NUM_THREADS"])
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


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    stop_server()  # one that other tests of this process have kept
    with fork_server(PRELOAD) as context:
        yield context


@pytest.fixture
def run(server: Any) -> Run:
    def jobs(jobs: list[Job], n_jobs: int | None = 2, gpus: Sequence[str] = ()) -> dict[int, Ending]:
        """Run the jobs on cores that are not there, so that the number of those here is of no account."""
        endings: dict[int, Ending] = {}
        with Stop() as stop:
            leases = Leases(gpus, CORES)
            assert Pool(server, leases, n_jobs, stop, on_end=endings.__setitem__).run(jobs) == []
        return endings

    return jobs


def codes(endings: dict[int, Ending]) -> dict[int, int]:
    return {index: ending.code for index, ending in endings.items()}


@pytest.mark.slow
def test_each_job_runs_once_and_its_output_goes_into_its_log(tmp_path: Path, run: Run) -> None:
    jobs = [Job(write, (tmp_path / f"{i}.txt", str(i)), tmp_path / f"{i}.log") for i in range(5)]
    assert codes(run(jobs)) == dict.fromkeys(range(5), 0)
    for i in range(5):
        assert (tmp_path / f"{i}.txt").read_text() == str(i)
        log = (tmp_path / f"{i}.log").read_text()
        assert "on standard output" in log
        assert "on standard error" in log


def test_a_job_that_dies_leaves_the_others_alone(tmp_path: Path, run: Run) -> None:
    jobs = [
        Job(leave, (3,), tmp_path / "0.log"),
        Job(kill_itself, (), tmp_path / "1.log"),
        Job(write, (tmp_path / "alive", "yes"), tmp_path / "2.log"),
    ]
    assert codes(run(jobs, n_jobs=1)) == {0: 3, 1: -signal.SIGKILL, 2: 0}
    assert (tmp_path / "alive").read_text() == "yes"


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_control_c_reaches_no_job_however_young_and_a_kill_reaches_it_later(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("normzoo.sweep.pool.run", interrupted_at_birth)
    context = server if method == "forkserver" else multiprocessing.get_context("fork")
    jobs = [
        Job(write, (tmp_path / "alive", "yes"), tmp_path / "0.log"),
        Job(kill_itself, (signal.SIGINT,), tmp_path / "1.log"),
    ]
    endings: dict[int, Ending] = {}
    with Stop() as stop:
        Pool(context, Leases([], CORES), 1, stop, on_end=endings.__setitem__).run(jobs)
        assert not stop.draining
    assert codes(endings) == {0: 0, 1: -signal.SIGINT}, (tmp_path / "0.log").read_text()
    assert (tmp_path / "alive").read_text() == "yes"


def test_no_environment_leaks_from_job_to_job_or_here(tmp_path: Path, run: Run) -> None:
    jobs = [Job(leak, (tmp_path / str(i),), tmp_path / f"{i}.log") for i in range(3)]
    run(jobs, n_jobs=1)
    assert {(tmp_path / str(i)).read_text() for i in range(3)} == {"clean1"}
    assert "LEAKED" not in os.environ


def test_one_at_a_time_if_told_so(tmp_path: Path, run: Run) -> None:
    assert run([Job(sleep, (tmp_path / str(i), 0.1), tmp_path / f"{i}.log") for i in range(3)], n_jobs=1)
    spans = [tuple(map(float, (tmp_path / str(i)).read_text().split())) for i in range(3)]
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_two_at_once_if_told_so(tmp_path: Path, run: Run) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    jobs = [Job(meet, (here, there), tmp_path / "0.log"), Job(meet, (there, here), tmp_path / "1.log")]
    assert codes(run(jobs, n_jobs=2)) == {0: 0, 1: 0}


def seen(path: Path) -> None:
    names = ("CUDA_VISIBLE_DEVICES", CELLS_PER_GPU, "OWN")
    path.write_text(json.dumps([os.environ.get(name) for name in names]))
    meet(path.parent / path.stem, path.parent / ("1" if path.stem == "0" else "0"))


def test_jobs_at_the_same_time_see_their_own_devices_and_variables(tmp_path: Path, run: Run) -> None:
    jobs = [
        Job(seen, (tmp_path / f"{i}.json",), tmp_path / f"{i}.log", need=Resources(gpus=2), environment={"OWN": str(i)})
        for i in range(2)
    ]
    assert codes(run(jobs, None, gpus=["GPU-a", "3", "5", "7"])) == {0: 0, 1: 0}
    first, second = (json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2))
    assert [first, second] == [["GPU-a,3", "1", "0"], ["5,7", "1", "1"]]
    assert os.environ.get("OWN") is None


def family(pids: Path) -> None:
    """A job with a forked child, one that forks into a session of its own, and a program in another."""
    program = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pids.write_text(f"{os.getpid()}\n{program.pid}\n")
    if os.fork() == 0 or (os.fork() == 0 and os.setsid() is None):
        with pids.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
    time.sleep(600)


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def pids_in(path: Path, count: int) -> list[int]:
    wait_for(lambda: path.exists() and len(path.read_text().splitlines()) == count)
    return [int(line) for line in path.read_text().split()]


def test_all_processes_of_a_job_end_with_it(tmp_path: Path, run: Run) -> None:
    pids = tmp_path / "pids"
    threading.Thread(target=lambda: os.kill(pids_in(pids, 4)[0], signal.SIGKILL)).start()
    endings = run([Job(family, (pids,), tmp_path / "log")])
    assert not [pid for pid in pids_in(pids, 4) if alive(pid)]
    assert len(endings) == 1


def test_a_time_limit(tmp_path: Path, run: Run) -> None:
    pids, begun = tmp_path / "pids", time.monotonic()
    job = Job(family, (pids,), tmp_path / "log", limits=Limits(seconds=1.0))
    endings = run([job, Job(write, (tmp_path / "next", "yes"), tmp_path / "1.log")], n_jobs=1)
    assert (endings[0].cause, endings[0].code) == ("timeout", -signal.SIGKILL)
    assert 1.0 <= endings[0].seconds < 5.0 <= 30 - (time.monotonic() - begun)
    assert not [pid for pid in pids_in(pids, 4) if alive(pid)]
    assert (tmp_path / "next").exists()


def babble() -> None:
    """Write what is no message, and much of it, into whatever is open."""
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b'{"code": 5}\n\xff' * 100)
    os._exit(3)


def test_what_a_job_writes_into_inherited_descriptors_harms_nobody(tmp_path: Path, run: Run) -> None:
    jobs = [Job(babble, (), tmp_path / "0.log"), Job(write, (tmp_path / "next", "yes"), tmp_path / "1.log")]
    assert codes(run(jobs, n_jobs=1)) == {0: 3, 1: 0}
    assert (tmp_path / "next").exists()


@pytest.mark.parametrize("seconds", [30 * 86400.0, 1e300])
def test_a_time_limit_may_be_longer_than_the_kernel_waits(tmp_path: Path, run: Run, seconds: float) -> None:
    endings = run([Job(write, (tmp_path / "done", "yes"), tmp_path / "log", limits=Limits(seconds=seconds))])
    assert endings[0].cause is None
    assert codes(endings) == {0: 0}, (tmp_path / "log").read_text()


def test_a_supervisor_that_raises_says_so_in_the_log_and_takes_its_job_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Ending:
        raise RuntimeError("the supervisor is broken")

    monkeypatch.setattr("normzoo.sweep.supervisor._watch", broken)
    endings: dict[int, Ending] = {}
    jobs = [Job(hold_on, (tmp_path / "pid",), tmp_path / "0.log"), Job(leave, (0,), tmp_path / "1.log")]
    with Stop() as stop:
        context = multiprocessing.get_context("fork")
        Pool(context, Leases([], CORES), 1, stop, on_end=endings.__setitem__).run(jobs)
    assert codes(endings) == {0: 1, 1: 1}
    assert "RuntimeError: the supervisor is broken" in (tmp_path / "0.log").read_text()


def print_too_much(log: Path) -> None:
    os.write(1, b"the beginning " + b"x" * 100_000)
    wait_for(lambda: log.stat().st_size < 2000)
    os.write(1, b"the end\n")


def test_a_log_is_cut_while_its_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normzoo.sweep.supervisor.MAX_LOG", 2000)
    endings: dict[int, Ending] = {}
    with Stop() as stop:
        pool = Pool(multiprocessing.get_context("fork"), Leases([], CORES), 1, stop, on_end=endings.__setitem__)
        pool.run([Job(print_too_much, (tmp_path / "log",), tmp_path / "log")])
    log = (tmp_path / "log").read_text()
    assert codes(endings) == {0: 0}, log[-300:]
    assert log.startswith("the beginning x"), log[:300]
    assert log.endswith("xthe end\n")
    assert "bytes left out" in log


@pytest.mark.parametrize("error", [UserError("the folder is none"), OSError("no process is left")])
def test_a_job_that_cannot_be_started_leaves_the_others_alone(tmp_path: Path, server: Any, error: Exception) -> None:
    def lock(index: int) -> CellLock | None:
        if index == 0:
            raise error
        return None

    told: dict[int, str] = {}
    jobs = [Job(write, (tmp_path / str(i), ""), tmp_path / f"{i}.log") for i in range(2)]
    with Stop() as stop:
        pool = Pool(server, Leases([], CORES), None, stop, lock=lock, on_fail=told.__setitem__)
        assert pool.run(jobs) == []
    assert list(told) == [0]
    assert str(error) in told[0]
    assert (tmp_path / "1").exists()


def eat(mib: int) -> None:
    eaten = bytearray(b"x" * (mib * 2**20))
    if os.fork() == 0:
        eaten[::1024] = b"y" * len(eaten[::1024])  # its own copy now, no longer shared
    time.sleep(600)


def test_a_memory_limit_counts_all_processes_and_no_memory_they_share(tmp_path: Path, run: Run) -> None:
    def limited(mib: int, seconds: float = 30.0) -> Ending:
        limits = Limits(seconds=seconds, memory=mib / 1024)
        return run([Job(eat, (100,), tmp_path / "log", limits=limits)])[0]

    over = limited(150)
    assert over.cause == "memory"
    assert 150 / 1024 < over.memory < 300 / 1024
    within = limited(400, seconds=3.0)
    assert within.cause == "timeout"
    assert 200 / 1024 < within.memory < 300 / 1024


def hold_on(pid: Path) -> None:
    pid.write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_does_not_outlive_its_supervisor(tmp_path: Path, number: signal.Signals, run: Run) -> None:
    pids = tmp_path / "pids"
    threading.Thread(target=lambda: os.kill(os.getsid(pids_in(pids, 4)[0]), number)).start()
    endings = run([Job(family, (pids,), tmp_path / "log")])
    job, program, *children = pids_in(pids, 4)
    wait_for(lambda: not any(alive(pid) for pid in (job, *children)))
    if number == signal.SIGTERM:
        assert endings[0].cause == "stopped"
        assert not alive(program)
    else:
        assert endings[0] == Ending(-signal.SIGKILL)
        wait_for(lambda: not alive(program))  # which is told nothing of its parent's death


def test_an_interrupt_stops_the_running_jobs_and_starts_no_more(tmp_path: Path, run: Run, server: Any) -> None:
    pids = tmp_path / "pids"
    jobs = [Job(family, (pids,), tmp_path / "0.log"), Job(write, (tmp_path / "next", ""), tmp_path / "1.log")]
    ended: list[int] = []

    def interrupt() -> None:
        if len(pids_in(pids, 4)) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with Stop() as stop:
        pool = Pool(
            server, Leases([], CORES), 1, stop, on_end=lambda index, _: ended.append(index),
            on_wait=interrupt,
        )  # fmt: skip
        assert pool.run(jobs) == [0, 1]
    assert ended == []
    assert not any(alive(pid) for pid in pids_in(pids, 4))
    assert not (tmp_path / "next").exists()


def test_a_first_interrupt_lets_running_jobs_end(tmp_path: Path, run: Run, server: Any) -> None:
    said: list[str] = []
    jobs = [Job(sleep, (tmp_path / str(i), 2.0), tmp_path / f"{i}.log") for i in range(2)]
    with Stop(lambda: said.append("draining")) as stop:
        start = lambda index: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()  # noqa: E731
        pool = Pool(server, Leases([], CORES), 1, stop, on_start=start)
        assert pool.run(jobs) == [1]
    assert said == ["draining"]
    assert (tmp_path / "0").exists()


def test_a_job_is_locked_until_its_end_is_told(tmp_path: Path, run: Run, server: Any) -> None:
    held: list[bool] = []
    jobs = [Job(sleep, (tmp_path / str(i), 0.1), tmp_path / f"{i}.log") for i in range(3)]

    def lock(index: int) -> CellLock | Elsewhere:
        return (CellLock.acquire(tmp_path / f"cell{index}") or Elsewhere.RUNS) if index else Elsewhere.DONE

    def end(index: int, ending: Ending) -> None:
        held.append(CellLock.acquire(tmp_path / f"cell{index}") is None)

    elsewhere: list[int] = []
    other = CellLock.acquire(tmp_path / "cell1")
    assert other is not None
    threading.Timer(3.0, other.release).start()
    with Stop() as stop:
        pool = Pool(server, Leases([], CORES), None, stop, lock=lock, on_end=end, on_elsewhere=elsewhere.append)
        assert pool.run(jobs) == []
    assert (held, elsewhere) == ([True, True], [0])
    assert all(CellLock.acquire(tmp_path / f"cell{index}") for index in (1, 2))


@pytest.mark.slow
def test_the_fork_server_may_die(tmp_path: Path, server: Any) -> None:
    with Stop() as stop:
        pool = Pool(server, Leases([], CORES), 1, stop, on_end=lambda *_: kill_server())
        assert pool.run([Job(write, (tmp_path / str(i), ""), tmp_path / "log") for i in range(3)]) == []
    assert (tmp_path / "2").exists()


def kill_server() -> None:
    server: Any = multiprocessing.forkserver._forkserver
    os.kill(server._forkserver_pid, signal.SIGKILL)


SWEEP = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from tests.sweep import test_pool

if __name__ == "__main__":
  with test_pool.fork_server(test_pool.PRELOAD) as context, test_pool.Stop() as stop:
    leases = test_pool.Leases([], test_pool.CORES)
    test_pool.Pool(context, leases, None, stop).run(
        [test_pool.Job(test_pool.family, (Path({pids!r}),), Path({pids!r} + ".log"))]
    )
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_fork_server_takes_no_interrupt_while_it_imports() -> None:
    script = """
import multiprocessing.forkserver, pathlib
from normzoo.sweep.fork_server import fork_server
if __name__ == "__main__":
    with fork_server(["this"]):
        server = multiprocessing.forkserver._forkserver._forkserver_pid
        print(pathlib.Path(f"/proc/{server}/status").read_text())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (blocked,) = (line.split()[1] for line in done.stdout.splitlines() if line.startswith("SigBlk"))
    assert int(blocked, 16) & 1 << signal.SIGINT - 1


@pytest.mark.slow
def test_no_process_outlives_a_killed_sweep(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = tmp_path / "sweep.py"
    script.write_text(SWEEP.format(here=str(Path(__file__).parents[2]), pids=str(pids)))
    sweep = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    family_of = pids_in(pids, 4)
    below = psutil.Process(sweep.pid).children(recursive=True)
    assert {process.pid for process in below} >= set(family_of)
    sweep.kill()
    sweep.wait()
    wait_for(lambda: not [process for process in below if alive(process.pid)], 10.0)
