"""A machine without room: one line says what is full, the exit code is kept, and the same command goes on later.

Each test has a mount or network namespace of its own, where a small disk is full at no cost to anybody.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

TINY = (
    "data=synthetic", "data.train_size=48", "data.val_size=20", "data.image_size=8", "trainer=cpu",
    "batch_size_per_device=8", "trainer.max_epochs=2", "sweep.checkpoint_every=0", "sweep.retry=failed",
)  # fmt: skip
IMAGES = (
    "data=image_folder", "data.root=images", "data.image_size=8", "data.num_workers=1", "trainer=cpu",
    "batch_size_per_device=4", "trainer.max_epochs=1", "sweep.retry=failed",
)  # fmt: skip
# Runs the same command again and again, each time after another preparation.
PROGRAM = """
import contextlib, json, socket, subprocess, sys
from normzoo.cli import main
from normzoo.results import read_results
from normzoo.sweep.fork_server import fork_server

def mount(where, options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", where], check=True)

def resize(where, options):
    subprocess.run(["mount", "-o", "remount," + options, where], check=True)

def use_up_ports():
    '''Leave this network two ports to choose from, both of them taken.'''
    import fcntl, struct
    with socket.socket() as any_socket:  # the loopback interface of a new network is down
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as stream:
        stream.write("40000 40001")
    for port in (40000, 40001):
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            taken.append(socket.create_server((address, port), family=family))

def free_ports():
    for one in taken:
        one.close()
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as stream:
        stream.write("32768 60999")

taken = []
preparations, arguments = json.loads(sys.argv[1])
with fork_server() if "-m" in arguments else contextlib.nullcontext():  # one for all of them
    for preparation in preparations:
        eval(preparation)
        try:
            code = main(arguments) or 0
        except SystemExit as stop:
            code = stop.code
        records, unreadable = read_results("s")
        ended = {"code": code, "statuses": sorted(record.status for record in records), "unreadable": len(unreadable)}
        print("\\nENDED", json.dumps(ended), flush=True)
"""


@dataclass
class Ended:
    """One of the commands that a program has run."""

    code: int
    statuses: list[str]
    unreadable: int
    said: str


def run(folder: Path, spaces: str, preparations: list[str], *arguments: str, **variables: str) -> list[Ended]:
    """Run `normzoo train` after each preparation, in new namespaces of these kinds."""
    new = ["unshare", f"-r{spaces}"]
    asked = subprocess.run([*new, "true"], capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip(f"this machine lets nobody make a namespace: {asked.stderr.strip()}")
    (folder / "s").mkdir(exist_ok=True)
    command = [*new, sys.executable, "-c", PROGRAM, json.dumps([preparations, ["train", *arguments]])]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=400,
    )  # fmt: skip
    ended, said = [], ""
    for line in done.stdout.splitlines():
        if line.startswith("ENDED "):
            ended.append(Ended(**json.loads(line.removeprefix("ENDED ")), said=said))
            said = ""
        else:
            said += f"{line}\n"
    assert len(ended) == len(preparations), done.stdout
    return ended


def check(ended: list[Ended], words: str, cells: int) -> None:
    """What did not go well is told in words and by the exit code, and the last command has finished every cell."""
    assert ended[0].code in (1, 2), ended[0].said
    for one in ended:
        # What Python prints of a data loader that could not be made is torch's own.
        said = re.sub(r"^Exception ignored in:.*?no attribute '\w+'$", "", one.said, flags=re.MULTILINE | re.DOTALL)
        assert "Traceback" not in said, one.said
        assert one.unreadable == 0
        if one.code == 0:
            assert one.statuses == ["ok"] * cells, one.said
        else:
            assert one.code in (1, 2), one.said
            assert words in one.said, one.said
    assert ended[-1].code == 0, ended[-1].said


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path


ONE, SWEEP = ("hydra.run.dir=s/one",), ("-m", "hydra.sweep.dir=s", "hydra.launcher.n_jobs=1")
ALONE_AND_IN_A_SWEEP = [pytest.param(ONE, 1, id="alone"), pytest.param((*SWEEP, "seed=0"), 1, id="sweep")]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "cells"), [(ONE, 1), ((*SWEEP, "seed=0,1"), 2)], ids=["alone", "sweep"])
@pytest.mark.parametrize("full", ["size={}k", "nr_inodes={}"], ids=["blocks", "inodes"])
def test_a_disk_that_has_a_little_more_room_each_time(
    tmp_path: Path, full: str, where: tuple[str, ...], cells: int
) -> None:
    steps = (4, 32, 64, 128) if "size" in full else (2, 4, 8, 12)
    room = [f"mount('s', {full.format(steps[0])!r})", *(f"resize('s', {full.format(step)!r})" for step in steps[1:])]
    ended = run(tmp_path, "m", [*room, f"resize('s', {full.format(10_000)!r})"], *where, *TINY)
    check(ended, "No space left on device", cells)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "cells"), ALONE_AND_IN_A_SWEEP)
def test_data_workers_that_find_no_shared_memory(images: Path, where: tuple[str, ...], cells: int) -> None:
    room = ["mount('/dev/shm', 'size=4k')", "resize('/dev/shm', 'size=64m')"]
    ended = run(images, "m", room, *where, *IMAGES)
    check(ended, "(full: /dev/shm)", cells)


@pytest.mark.slow
@pytest.mark.ddp
def test_ranks_that_find_no_port(tmp_path: Path) -> None:
    ended = run(tmp_path, "n", ["use_up_ports()", "free_ports()"], *ONE, *TINY, "trainer.devices=2")
    check(ended, "Address already in use", 1)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "cells"), ALONE_AND_IN_A_SWEEP)
def test_data_workers_and_ranks_below_a_long_tmpdir(images: Path, where: tuple[str, ...], cells: int) -> None:
    folder = images / ("t" * 90)
    folder.mkdir()
    ended = run(images, "m", ["None"], *where, *IMAGES, "trainer.devices=2", TMPDIR=str(folder))
    assert (ended[0].code, ended[0].statuses) == (0, ["ok"] * cells), ended[0].said
    assert [path for path in folder.iterdir() if not path.name.startswith("torchinductor")] == []
