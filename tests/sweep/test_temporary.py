"""Where the processes of a program meet: on short paths, and nothing of it is left behind for long."""

import errno
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from normzoo.errors import UserError
from normzoo.training import machine
from normzoo.training.machine import LONGEST, PREFIX, make_sockets_folder, short_folder, where_full


@pytest.fixture
def tmpdir_is(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have TMPDIR be another, for a process that has no folder for its sockets yet."""

    def change(path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(path))
        monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)  # type: ignore[attr-defined]

    return change


def test_a_long_path_is_replaced_by_a_short_one(
    tmpdir_is: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmpdir_is(tmp_path / ("x" * 90))
    assert len(short_folder()) <= LONGEST
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="is too long for a socket, and /tmp cannot be written: set a shorter one"):
        make_sockets_folder()


def test_a_full_one_is_told_in_a_line(tmpdir_is: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(machine, "LONGEST", 1000)
    tmpdir_is(tmp_path)
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(UserError, match=f"cannot make a folder in {tmp_path}: No space left on device; set TMPDIR"):
        make_sockets_folder()


def test_the_next_program_removes_what_killed_ones_have_left_and_nothing_else(
    tmpdir_is: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LONGEST", 1000)
    others = {name: tmp_path / name for name in (f"{PREFIX}left", f"{PREFIX}in-use", f"{PREFIX}new", "pymp-foreign")}
    for folder in others.values():
        folder.mkdir()
        (folder / "socket").touch()
    aim = tmp_path / "elsewhere"
    aim.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(aim)
    held = machine._lock(others[f"{PREFIX}in-use"])
    for folder in (*others.values(), aim):
        if not folder.name.endswith("new"):
            os.utime(folder, (0, 0))
    tmpdir_is(tmp_path)
    make_sockets_folder()
    os.close(held)
    assert {name: folder.exists() for name, folder in others.items()} == {
        name: name != f"{PREFIX}left" for name in others
    }
    assert aim.exists()
    own = Path(multiprocessing.current_process()._config["tempdir"])  # type: ignore[attr-defined]
    assert (own.parent, own.stat().st_mode & 0o777) == (tmp_path, 0o700)


def test_a_program_that_ends_leaves_none(tmp_path: Path) -> None:
    script = "from normzoo.training import machine; machine.LONGEST = 1000; machine.make_sockets_folder()"
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_full_disk_names_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = os.statvfs_result((4096, 4096, 100, 0, 0, 100, 9, 9, 0, 255))
    room = os.statvfs_result((4096, 4096, 100_000, 90_000, 90_000, 100, 9, 9, 0, 255))
    no_inodes = os.statvfs_result((4096, 4096, 100_000, 90_000, 90_000, 100, 0, 0, 0, 255))
    disks = {"/dev/shm": full, str(tmp_path): no_inodes}
    monkeypatch.setattr(os, "statvfs", lambda place: disks.get(place, room))
    assert where_full("[Errno 28] No space left on device", tmp_path) == f" (full: {tmp_path}, /dev/shm)"
    assert where_full("ValueError", tmp_path) == ""
