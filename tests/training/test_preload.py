"""The server that cells are forked from, begun before Hydra and Lightning are imported."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from normzoo.commands import train as command
from normzoo.sweep import fork_server


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["-m"], True),
        (["seed=0,1", "--multirun"], True),
        (["norm=batch_norm"], False),
        (["-m", "hydra/launcher=ray"], False),
        (["-m", "sweep.dry_run=true"], False),
        (["-m", "--cfg", "job"], False),
        (["-m", "--help"], False),
    ],
)
def test_a_sweep_on_this_machine_wants_it(arguments: Sequence[str], wanted: bool) -> None:
    assert fork_server.wants_server(arguments) is wanted


def test_it_runs_from_before_the_imports_until_after_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []

    @contextmanager
    def server() -> Iterator[None]:
        happened.append("server")
        yield
        happened.append("stopped")

    monkeypatch.setattr(command, "fork_server", server)
    monkeypatch.setattr(command, "_call_hydra", lambda *_: happened.append("hydra"))
    command.run(["-m"])
    command.run([])
    assert happened == ["server", "hydra", "stopped", "hydra"]


def test_one_that_runs_goes_on_serving() -> None:
    fork_server.stop_server()  # one that other tests of this process have kept
    of_multiprocessing: Any = fork_server.multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    with fork_server.fork_server(()):
        outer = of_multiprocessing._forkserver_pid
        with fork_server.fork_server(()):
            assert of_multiprocessing._forkserver_pid == outer
        os.kill(outer, 0)  # it is there
        assert fork_server._runs()
    assert not fork_server._runs()


def test_a_server_of_the_programs_own_is_left_alone() -> None:
    fork_server.stop_server()
    own: Any = fork_server.multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    own.ensure_running()
    try:
        with fork_server.fork_server(()):
            pass
        fork_server.stop_server()
        assert fork_server._runs()
        os.kill(own._forkserver_pid, 0)
    finally:
        own._stop()
