"""What every test runs under: one thread, the same seeds, no GPU test without a GPU."""

import os
import random
from pathlib import Path

# Before torch is imported, and inherited by the processes that tests start: threads only slow down tests this small.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from environments import build

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """The same random numbers in each test, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch finds none here")
    for item in items:
        if "gpu" in item.keywords:
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
