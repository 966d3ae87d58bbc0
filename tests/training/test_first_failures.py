"""A sweep whose first cells all fail with one error starts no more."""

from collections.abc import Callable
from pathlib import Path

import pytest

from normzoo.errors import UserError
from normzoo.results import CellResult, read_results
from normzoo.sweep.local_launcher import FirstFailures
from normzoo.training.config import sweep_options


def ended(status: str, reason: str | None = None) -> CellResult:
    return CellResult(cell="0123456789ab", status=status, config={}, reason=reason)


def test_errors_that_differ_in_numbers_alone_are_one_error() -> None:
    alike = FirstFailures(3)
    assert [alike.add(ended("error", f"ValueError: shape ({size})\nmore")) for size in (1, 2, 30)] == [
        False,
        False,
        True,
    ]
    assert alike.said == "ValueError: shape (30)"


@pytest.mark.parametrize("other", [ended("ok"), ended("error", "KeyError: 'a'"), ended("diverged"), ended("killed")])
def test_one_cell_that_ends_otherwise_lets_the_sweep_run(other: CellResult) -> None:
    alike = FirstFailures(2)
    assert not any(alike.add(one) for one in (ended("error", "b"), other, ended("error", "b"), ended("error", "b")))


def test_it_can_be_switched_off() -> None:
    alike = FirstFailures(None)
    assert not any(alike.add(ended("error", "b")) for _ in range(20))
    assert sweep_options({"stop_after_failures": None}).stop_after_failures is None
    with pytest.raises(UserError, match="must be a whole number, 1 or more, or null"):
        sweep_options({"stop_after_failures": 0})


@pytest.mark.slow
def test_a_sweep_that_can_only_fail_is_stopped_and_resumed(
    cli: Callable[..., tuple[int, str, str]], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    command = ("train", "-m", *tiny, "model._target_=tests.training.dying.Dying", "seed=0,1,2,3", "hydra.sweep.dir=s",
               "hydra.launcher.n_jobs=1", "sweep.stop_after_failures=2")  # fmt: skip
    code, out, err = cli(*command)
    assert code == 1, out + err
    assert [result.status for result in read_results(tmp_path / "s")[0]] == ["error"] * 2
    assert "stopped: the first 2 cells failed with the same error" in out
    assert "2 cells not started" in out
    assert "sweep.retry=failed" in out
    code, out, err = cli(*command, "hydra.sweep.dir=all", "sweep.stop_after_failures=4")
    assert code == 1, out + err
    assert "interrupted" not in out + err
    code, out, _ = cli(*command, "sweep.stop_after_failures=null")
    assert code == 1
    assert len(read_results(tmp_path / "s")[0]) == 4
    assert "stopped" not in out
