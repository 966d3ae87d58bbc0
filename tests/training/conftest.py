"""Cells small enough to train in a test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

TINY = (
    "data=synthetic",
    "data.train_size=96",
    "data.val_size=40",
    "data.image_size=8",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "batch_size_per_device=8",
)


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Overrides that make a cell of less than a second."""
    return TINY


@pytest.fixture
def config() -> Callable[..., dict[str, Any]]:
    """The configuration that these overrides compose to, plain; a tiny cell unless they say otherwise."""

    def composed(*overrides: str) -> dict[str, Any]:
        with initialize_config_module("normzoo.conf", version_base="1.3"):
            return OmegaConf.to_container(compose("train", [*TINY, *overrides]), resolve=True)  # type: ignore[return-value]

    return composed


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `normzoo ...` in this process, in an empty folder; gives exit code, standard output and standard error."""
    from normzoo.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    # Hydra takes a measurement of coverage for a debugger, and then leaves its errors to it.
    monkeypatch.setattr("hydra._internal.utils.is_under_debugger", lambda: False)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capfd.readouterr()
        return code, out, err

    return run
