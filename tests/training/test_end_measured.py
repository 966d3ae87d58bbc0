"""The record is that of the net as it is in the end, whatever the trainer's options say of validation."""

from collections.abc import Callable
from pathlib import Path

import pytest

from normzoo.results import read_result

Cli = Callable[..., tuple[int, str, str]]

# An epoch of the tiny cell has 12 batches.
OPTIONS = {
    "steps end it": (("trainer.max_epochs=null", "+trainer.max_steps=5"), 5),
    "steps end it within the second epoch": (("+trainer.max_steps=17",), 17),
    "every other epoch": (("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"), 36),
    "every fifth batch": (("trainer.max_epochs=1", "+trainer.val_check_interval=5"), 12),
    "every tenth batch of all": (
        ("trainer.check_val_every_n_epoch=null", "+trainer.val_check_interval=10"), 24,
    ),
    "no validation": (("trainer.limit_val_batches=0",), 24),
    "no share of validation": (("trainer.limit_val_batches=0.0",), 24),
    "a few batches": (("trainer.limit_train_batches=2", "trainer.limit_val_batches=1"), 4),
    "a fast run": (("+trainer.fast_dev_run=true",), 1),
    "accumulated": (
        ("trainer.accumulate_grad_batches=5", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"), 9,
    ),
    "too little time": (("+trainer.max_time={microseconds: 1000}", "trainer.max_epochs=30"), None),
}  # fmt: skip


@pytest.mark.parametrize("what", OPTIONS)
def test_the_end_is_measured(cli: Cli, tiny: tuple[str, ...], tmp_path: Path, what: str) -> None:
    options, steps = OPTIONS[what]
    code, _, err = cli("train", *tiny, *options, "logger=csv", "hydra.run.dir=one")
    record = read_result(tmp_path / "one")
    assert (code, record.status) == (0, "ok"), err
    assert record.curve[-1]["step"] == record.metrics["steps"]
    assert steps in (None, record.metrics["steps"])
    for error in ("val_error_running", "val_error_population", "val_error_batch", "train_error"):
        assert record.metrics[error] is not None, error
    epochs = [point["epoch"] for point in record.curve]
    assert epochs == sorted(epochs)
    assert epochs[-1] <= 3


def test_the_last_epoch_is_measured_once(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    assert cli("train", *tiny, "hydra.run.dir=one")[0] == 0
    assert [(point["epoch"], point["step"]) for point in read_result(tmp_path / "one").curve] == [(1, 12), (2, 24)]


def test_the_end_is_that_of_a_training_validated_each_epoch(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    for name, every in (("each", 1), ("other", 2)):
        cli("train", *tiny, "trainer.max_epochs=3", f"trainer.check_val_every_n_epoch={every}", f"hydra.run.dir={name}")
    each, other = (read_result(tmp_path / name) for name in ("each", "other"))
    assert other.metrics == each.metrics
    assert len(other.curve) == 2


def test_what_was_not_trained_is_not_ok(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, _, err = cli("train", *tiny, "+trainer.max_time=00:00:00:00", "hydra.run.dir=one")
    assert (code, read_result(tmp_path / "one").status) == (2, "error")
    assert "before the first step" in err
