"""What every test runs under: one thread, the same seeds, no GPU test without a GPU."""

import logging
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

# Before torch is imported, and inherited by the processes that tests start: threads only slow down tests this small.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from tests.environments import build

# nohup, or a script that starts the suite in the background, has it ignore signals, and so would what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
torch.set_num_threads(1)
# Before torch.compile or torch.export feigns GPUs: the first backward of a process starts a thread for each GPU it
# finds, and with these the process can no longer fork the ranks that other tests train in.
torch.ones((), requires_grad=True).backward()


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """The same random numbers in each test, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """What Hydra makes of logging goes with its test.

    Its handler writes to the standard output of that test. Later it is closed, and of whatever another test logs, or a
    thread or the garbage collector in its midst, logging would say on standard error that it cannot be written.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Without what measures coverage, where it would take half as long again and find nothing new."""
    if not item.get_closest_marker("untraced"):
        return (yield)
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(trace)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    # Side by side, the files that take long come first, so that at the end no process works on one while others wait.
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: (item.path not in slow, -tests[item.path], item.path))
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch finds none here")
    for item in items:
        if item.get_closest_marker("gpu"):  # not in its keywords, which have the names of folders
            item.add_marker(skip)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel of the checkout."""
    out = tmp_path_factory.mktemp("dist")
    build(Path(__file__).parents[1], out, "sdist", "wheel")
    return out


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path
