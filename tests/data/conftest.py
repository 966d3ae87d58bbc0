from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a working folder of the test's own, so that nothing of this machine is found or written."""
    monkeypatch.setenv("NORMZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NORMZOO_DATA", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


@pytest.fixture
def on_rank() -> Callable[..., object]:
    """Put a data module on rank r of k, without starting processes."""

    def place(data: object, rank: int, world: int) -> None:
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[attr-defined]

    return place
