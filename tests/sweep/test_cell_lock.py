"""One sweep at a time runs a cell."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from normzoo.errors import UserError
from normzoo.sweep.cell_lock import FILE_NAME, CellLock

RACE = """
import os, sys
from pathlib import Path
from normzoo.sweep.cell_lock import CellLock
folder, own = Path(sys.argv[1]), Path(sys.argv[1]) / "own"
for _ in range(200):
    lock = CellLock.acquire(folder)
    if lock:
        os.close(os.open(own, os.O_CREAT | os.O_EXCL))  # fails if another has the lock as well
        own.unlink()
        lock.release()
"""


def test_one_has_it_until_it_is_given_back(tmp_path: Path) -> None:
    lock = CellLock.acquire(tmp_path / "cell")
    assert lock is not None
    assert CellLock.acquire(tmp_path / "cell") is None
    (tmp_path / "cell" / ".result.json.12.34.tmp").touch()
    lock.release()
    assert list((tmp_path / "cell").iterdir()) == []
    assert CellLock.acquire(tmp_path / "cell") is not None


def test_it_is_held_while_a_process_that_inherited_it_lives(tmp_path: Path) -> None:
    lock = CellLock.acquire(tmp_path)
    assert lock is not None
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(lock.descriptor)  # as when the sweep is killed
    assert CellLock.acquire(tmp_path) is None
    os.close(writing)
    os.waitpid(child, 0)
    assert CellLock.acquire(tmp_path) is not None


@pytest.mark.slow
def test_never_two_at_once(tmp_path: Path) -> None:
    racers = [subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path)]) for _ in range(3)]
    assert [racer.wait() for racer in racers] == [0, 0, 0]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write into .*file.cell.*hydra.sweep.dir"):
        CellLock.acquire(tmp_path / "file" / "cell")


def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    assert CellLock.acquire(tmp_path) is not None
    assert CellLock.acquire(tmp_path) is not None
    assert "one sweep at a time" in caplog.text


def test_threads_of_one_process_are_kept_apart_too(tmp_path: Path) -> None:
    taken: list[CellLock | None] = []
    threads = [threading.Thread(target=lambda: taken.append(CellLock.acquire(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lock is not None for lock in taken) == 1
    assert (tmp_path / FILE_NAME).exists()
