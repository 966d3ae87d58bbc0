"""Cells small enough to train in a test."""

import copy
import functools
import multiprocessing.forkserver
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from normzoo.identity import cell_id
from normzoo.results import CellResult, write_result
from normzoo.sweep import fork_server

TINY = (
    "data=synthetic",
    "data.train_size=96",
    "data.val_size=40",
    "data.image_size=8",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "batch_size_per_device=8",
)
SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=1")


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Overrides that make a cell of less than a second."""
    return TINY


@pytest.fixture
def config() -> Callable[..., dict[str, Any]]:
    """The configuration that these overrides compose to, plain; a tiny cell unless they say otherwise."""
    return lambda *overrides: copy.deepcopy(composed(*overrides))


@functools.cache
def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_module("normzoo.conf", version_base="1.3"):
        return OmegaConf.to_container(compose("train", [*TINY, *overrides]), resolve=True)  # type: ignore[return-value]


@pytest.fixture
def leave(config: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Path]:
    """Leave a record of a cell of a sweep into `s` that is tiny and `SHORT`, as an earlier run would have."""

    def left(status: str, *overrides: str, **entries: Any) -> Path:
        of = config(*SHORT, *overrides)
        record: dict[str, Any] = {"cell": cell_id(of), "status": status, "config": of, "seed": of["seed"], **entries}
        return write_result(tmp_path / "s" / cell_id(of), CellResult(**record))

    return left


# Of pytest for each test, and of Lightning for each cell.
CHANGING = {"PYTEST_CURRENT_TEST", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"}


class KeptServer:
    """The server that the sweeps of this process fork their cells from; a sweep's own would import for seconds.

    Another is started for other environment variables, which cells have from their server.
    """

    ensure, stop = staticmethod(multiprocessing.forkserver.ensure_running), staticmethod(fork_server.stop_server)

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.preload: list[str] = []

    def ensure_running(self) -> None:
        preload: list[str] = multiprocessing.forkserver._forkserver._preload_modules  # type: ignore[attr-defined]
        environment = {name: value for name, value in os.environ.items() if name not in CHANGING}
        if preload and (preload, environment) != (self.preload, self.environment):
            self.stop()
            self.preload, self.environment = preload, environment
        self.ensure()


@pytest.fixture(scope="session", autouse=True)
def _hydra_untraced() -> Iterator[None]:
    """Coverage would have Hydra compose half as fast, and finds no line of ours there."""
    load = ConfigLoaderImpl.load_configuration

    def load_configuration(*arguments: Any, **options: Any) -> Any:
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            return load(*arguments, **options)
        finally:
            sys.settrace(trace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", load_configuration)
        yield


@pytest.fixture(scope="session")
def kept_server() -> Iterator[KeptServer]:
    server = KeptServer()
    yield server
    server.stop()


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], kept_server: KeptServer
) -> Callable[..., tuple[int, str, str]]:
    """Run `normzoo ...` in this process, in an empty folder; gives exit code, standard output and standard error."""
    from normzoo.cli import main

    monkeypatch.setattr(multiprocessing.forkserver, "ensure_running", kept_server.ensure_running)
    monkeypatch.setattr(fork_server, "_runs", lambda: False)
    monkeypatch.setattr(fork_server, "stop_server", lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capfd.readouterr()
        return code, out, err

    return run
