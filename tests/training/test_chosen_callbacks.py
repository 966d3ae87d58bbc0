"""The group `callbacks`: Lightning's callbacks and one's own, by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping

import normzoo
from normzoo.errors import RefusedError, UserError
from normzoo.identity import cell_id
from normzoo.report import report
from normzoo.results import read_result
from normzoo.training.cell import run_cell
from normzoo.training.config import parse
from normzoo.training.instantiate import build_data
from normzoo.training.small_batches import _BATCH_HOOKS, _overrides
from tests.training.test_checkpoint import same

Compose = Callable[..., dict[str, Any]]
Cli = Callable[..., tuple[int, str, str]]
CHOICES = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "callbacks").glob("*.yaml"))
NEVER_BETTER = (
    "norm=group_norm", "norm.num_groups=4", "optimizer.base_lr=0", "callbacks=early_stopping",
    "callbacks.early_stopping.patience=1",
)  # fmt: skip


class Own(Callback):
    """Counts the validations."""

    def __init__(self, start: int = 0) -> None:
        self.seen = start

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen += 1
        pl_module.curve[-1]["seen"] = self.seen

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]


@pytest.fixture
def chosen(config: Compose, tmp_path: Path) -> Compose:
    """The configuration of a cell, with what Hydra would interpolate."""
    return lambda *overrides: config(
        *overrides,
        *([f"callbacks.model_checkpoint.dirpath={tmp_path}/kept"] if "model_checkpoint" in str(overrides) else []),
    )  # fmt: skip


def logged(tmp_path: Path) -> tuple[str, ...]:
    return ("logger=csv", f"logger.folder={tmp_path}")


@pytest.mark.parametrize("name", CHOICES)
def test_each_choice_trains(name: str, chosen: Compose, tmp_path: Path) -> None:
    result = run_cell(chosen(f"callbacks={name}", *logged(tmp_path)), tmp_path / "cell")
    assert result is not None
    assert (result.status, result.metrics["steps"], len(result.curve)) == ("ok", 24, 2)
    assert "stopped_epoch" not in result.metrics
    if name == "model_checkpoint":
        assert len(list((tmp_path / "kept").glob("*.ckpt"))) == 2


def test_only_what_changes_the_result_names_another_cell(chosen: Compose, tmp_path: Path) -> None:
    usual = chosen()
    assert cell_id({key: value for key, value in usual.items() if key != "callbacks"}) == cell_id(usual)
    for name in CHOICES:
        changes = name in ("early_stopping", "ema", "swa")
        assert (cell_id(chosen(f"callbacks={name}")) != cell_id(usual)) == changes, name
    own = {"_target_": f"{__name__}.Own"}
    ids = [cell_id({**usual, "callbacks": {"own": {**own, **folder}}}) for folder in ({}, {"dirpath": "/a"})]
    assert ids[0] == ids[1] != cell_id(usual)


def test_several_are_chosen_by_a_list(chosen: Compose) -> None:
    config = chosen("callbacks=[early_stopping,lr_monitor]", "callbacks.early_stopping.patience=7")
    assert config["callbacks"]["early_stopping"]["patience"] == 7
    assert set(config["callbacks"]) == {"early_stopping", "lr_monitor"}


def test_a_cell_that_stops_early_says_so(chosen: Compose, tmp_path: Path) -> None:
    result = run_cell(chosen("trainer.max_epochs=5", *NEVER_BETTER), tmp_path / "cell")
    assert result is not None
    assert result.status == "ok"
    assert (result.metrics["stopped_epoch"], result.metrics["steps"], len(result.curve)) == (2, 24, 2)
    assert str(result.reason).startswith(
        "stopped after epoch 2 of 5: Monitored metric val_error_running did not improve"
    )
    assert "Stopped early: 1 cell, after epoch 2 to 2" in report(tmp_path).summary.read_text()


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_stop_together(chosen: Compose, tmp_path: Path) -> None:
    result = run_cell(chosen("trainer.max_epochs=5", "trainer.devices=2", *NEVER_BETTER), tmp_path)
    assert result is not None
    assert (result.metrics["stopped_epoch"], len(result.curve)) == (2, 2)


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_what_is_measured_and_kept_is_the_average(name: str, chosen: Compose, tmp_path: Path) -> None:
    cell = chosen(
        f"callbacks={name}", "trainer.max_epochs=4", "sweep.save=best", "optimizer.schedule=constant", "data.noise=2",
        *(["callbacks.swa.start=0.5"] if name == "swa" else []),
    )  # fmt: skip
    plain = run_cell({**cell, "callbacks": {}}, tmp_path / "plain")
    result = run_cell(cell, tmp_path / "best")
    run_cell({**cell, "sweep": {"save": "last"}}, tmp_path / "last")
    assert plain is not None
    assert result is not None
    assert plain.curve != result.curve
    data: Any = build_data(parse(cell))
    data.setup("fit")
    best = min(result.curve, key=lambda point: point["val_error_running"])
    for kept, point in (("best", best), ("last", result.curve[-1])):
        model = normzoo.load(tmp_path / kept)
        for split, metric in (("val", "val_error_running"), ("train", "train_error")):
            x, y = data.tensors(split)
            with torch.no_grad():
                error = 100 * float((model(x).argmax(1) != y).double().mean())
            assert error == pytest.approx(point[metric], abs=1e-3)
    if name == "swa":  # until there is an average, the net itself is measured
        assert result.curve[:2] == plain.curve[:2]


@pytest.mark.parametrize(
    "overrides",
    [
        ("callbacks=early_stopping", "optimizer.base_lr=0", "callbacks.early_stopping.patience=2"),
        ("callbacks=[ema,model_checkpoint]",),
        ("callbacks=swa", "callbacks.swa.start=0.3"),
        ("+callbacks.own._target_=" + f"{__name__}.Own", "+callbacks.own.start=3"),
    ],
    ids=str,
)
def test_callbacks_resume(
    overrides: tuple[str, ...], chosen: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(line: object, trainer: Trainer, module: object) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    cell = chosen("trainer.max_epochs=4", "sweep.checkpoint_every=0", *overrides)
    with monkeypatch.context() as patch:
        patch.setattr("normzoo.training.callbacks.EpochLines.on_train_epoch_start", stop, raising=False)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, tmp_path / "cut")
    resumed = run_cell(cell, tmp_path / "cut")
    same(resumed, run_cell(cell, tmp_path / "undisturbed"))  # type: ignore[arg-type]
    if "own" in str(overrides):
        assert read_result(tmp_path / "cut").curve[-1]["seen"] == 7


def test_a_callback_without_hooks_of_a_batch_lets_steps_be_taken_in_groups() -> None:
    assert not _overrides(EarlyStopping("val_error_running"), Callback, _BATCH_HOOKS)
    assert not _overrides(Own(), Callback, _BATCH_HOOKS)


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("lightning.pytorch.callbacks.StochasticWeightAveraging", {"swa_lrs": 0.1}, "callbacks=swa"),
        (
            "lightning.pytorch.callbacks.GradientAccumulationScheduler",
            {"scheduling": {1: 2}},
            r"set trainer\.accumulate_grad_batches",
        ),
        ("lightning.pytorch.callbacks.BatchSizeFinder", {}, "sweep over batch_size_per_device"),
        ("lightning.pytorch.callbacks.LearningRateFinder", {}, r"sweep over optimizer\.base_lr"),
        ("lightning.pytorch.callbacks.LearningRateMonitor", {}, "needs a logger: add logger=csv"),
        ("lightning.pytorch.callbacks.EarlyStopping", {"monitor": "val_acc"}, "must be one of val_error_running"),
        ("lightning.pytorch.callbacks.EarlyStopping", {"monitors": "val_acc"}, r"callbacks\.one: .*monitors"),
        ("lightning.pytorch.callbacks.NoSuch", {}, "NoSuch"),
        ("torch.nn.Identity", {}, r"is a Identity; it must be a lightning\.Callback"),
        ("normzoo.training.averaging.StochasticWeightAveraging", {"start": 2}, "share of the epochs"),
    ],
)
def test_a_callback_that_cannot_work_is_refused_before_training(
    target: str, options: dict[str, Any], said: str, config: Compose, tmp_path: Path
) -> None:
    cell = {**config(), "callbacks": {"one": {"_target_": target, **options}}}
    with pytest.raises(RefusedError, match=said) as refused:
        run_cell(cell, tmp_path)
    assert "\n" not in str(refused.value)


def test_swa_needs_a_number_of_epochs(chosen: Compose, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"callbacks\.swa .*: give trainer\.max_epochs"):
        run_cell(chosen("callbacks=swa", "trainer.max_epochs=null", "+trainer.max_steps=3"), tmp_path)


def test_callbacks_are_mappings(config: Compose) -> None:
    with pytest.raises(UserError, match=r"callbacks\.patience=3 must be a mapping with a _target_"):
        parse({**config(), "callbacks": {"patience": 3}})


def test_a_sweep_with_a_callback_that_lacks_a_logger_ends_at_once(cli: Cli, tiny: tuple[str, ...]) -> None:
    code, _, err = cli("train", "-m", *tiny, "callbacks=[early_stopping,lr_monitor]", "seed=0,1")
    assert code == 2
    assert "callbacks.lr_monitor needs a logger: add logger=csv" in err
    assert err.count("\n") == 1
