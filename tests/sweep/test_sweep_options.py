"""The `sweep` block: what it takes, and what it says to the rest."""

import pytest
from hydra import compose, initialize_config_module

from normzoo.errors import UserError
from normzoo.training.config import SweepOptions, sweep_options
from normzoo.training.config_values import duration


def test_the_defaults_are_those_of_the_config() -> None:
    with initialize_config_module("normzoo.conf", version_base="1.3"):
        assert sweep_options(compose("train").sweep) == SweepOptions() == sweep_options(None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(90, 90), (0.5, 0.5), ("90", 90), ("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400),
     ("1 H 5 s", 3605), ("2d", 172800)],
)  # fmt: skip
def test_times(value: object, seconds: float) -> None:
    assert duration("sweep.time_limit", value) == seconds
    assert sweep_options({"time_limit": value}).time_limit == seconds


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("time_limit", "soon", "is not a time"),
        ("time_limit", "2h later", "is not a time"),
        ("time_limit", 0, "must be a positive number"),
        ("time_limit", -1, "must be a positive number"),
        ("time_limit", True, "must be a positive number"),
        ("time_limit", float("nan"), "must be a positive number"),
        pytest.param("time_limit", 10**400, "must be a positive number", id="too large"),
        pytest.param("time_limit", "9" * 400 + "d", "must be a positive number", id="too long"),
        ("stall_limit", 0, "must be a positive number"),
        ("memory_limit", "4G", "GiB, such as 4 or 0.5"),
        ("memory_limit", 0, "GiB"),
        ("checkpoint_every", -1, "must be a positive number"),
        ("resume", "maybe", "true or false"),
        ("dry_run", 1, "true or false"),
        ("retry", "some", "none, failed, all"),
        ("patience", 3, "options: sweep.resume"),
    ],
)
def test_what_cannot_be_is_named(option: str, value: object, words: str) -> None:
    with pytest.raises(UserError, match=f"sweep.{option}.*{words}"):
        sweep_options({option: value})


def test_a_checkpoint_at_every_epoch_and_none() -> None:
    assert sweep_options({"checkpoint_every": 0}).checkpoint_every == 0
    assert sweep_options({"checkpoint_every": None}).checkpoint_every is None
