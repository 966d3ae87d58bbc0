"""Many optimizer steps in one `training_step` are the same steps, bit for bit, as those that Lightning makes singly."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import lightning
import pytest
import torch

from normzoo.data.in_memory import InMemory
from normzoo.data.loader import TensorLoader
from normzoo.data.synthetic import Synthetic
from normzoo.training import module
from normzoo.training.cell import run_cell
from normzoo.training.small_batches import batches_at_once

Compose = Callable[..., dict[str, Any]]
# 61 batches of an epoch: a slice of 50, and a last one of 11, whose last batch holds 3 samples.
LONG = ("data.train_size=243", "data.drop_last=false", "batch_size_per_device=4", "model.dropout=0.3")


class Taught(lightning.Callback):
    """Keeps the weights that a training ends with, and kills its process when $CUT steps are done."""

    weights: ClassVar[list[torch.Tensor]] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        module.model.register_forward_pre_hook(lambda *_: self._cut(trainer))

    def _cut(self, trainer: Any) -> None:
        if os.environ.get("CUT") == str(trainer.global_step):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        Taught.weights = [value.clone() for value in module.model.state_dict().values()]

    def state_dict(self) -> dict[str, Any]:
        return {"none": 0}

    def summary(self) -> dict[str, float]:
        return {}

    def recording(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def long(config: Compose) -> Compose:
    def composed(*overrides: str) -> dict[str, Any]:
        cell = config(*LONG, *overrides)
        cell["probe"] = {"taught": {"_target_": f"{__name__}.Taught"}}
        return cell

    return composed


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches at once of each training."""
    told: list[int] = []

    def tell(trainer: Any) -> int:
        told.append(batches_at_once(trainer))
        return told[-1]

    monkeypatch.setattr(module, "batches_at_once", tell)
    return told


@pytest.mark.parametrize(
    "overrides",
    [
        ("norm=batch_renorm", "++data.augment=true"),
        pytest.param(
            ("norm=cross_iteration_batch_norm", "optimizer=adamw", "data.drop_last=true"), marks=pytest.mark.slow
        ),
        ("norm=group_norm", "trainer.check_val_every_n_epoch=2", "optimizer.schedule=step"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_steps_at_once_are_the_steps_made_singly(
    long: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int], overrides: tuple[str, ...]
) -> None:
    together = run_cell(long(*overrides), tmp_path / "together")
    weights = Taught.weights
    assert seen == [50]
    monkeypatch.setattr(module, "batches_at_once", lambda trainer: 1)
    singly = run_cell(long(*overrides), tmp_path / "singly")
    assert replace(together, time={}) == replace(singly, time={})
    assert len(weights) == len(Taught.weights)
    assert all(map(torch.equal, weights, Taught.weights))
    assert together.metrics["steps"] == 2 * (61 - ("data.drop_last=true" in overrides))


@pytest.mark.parametrize("at_once", [50, pytest.param(1, marks=pytest.mark.slow)])
def test_a_cell_killed_within_an_epoch_goes_on_as_it_has_begun(
    long: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    cell = long("norm=moving_average_batch_norm", "sweep.checkpoint_every=0")
    undisturbed = run_cell(cell, tmp_path / "undisturbed")
    weights = Taught.weights
    with monkeypatch.context() as patch:
        patch.setenv("CUT", "113")  # the last slice of the second epoch begins at 111
        patch.setattr(module, "batches_at_once", lambda trainer: at_once)
        process = multiprocessing.get_context("fork").Process(target=run_cell, args=(cell, tmp_path / "cut"))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    saved = torch.load(tmp_path / "cut" / "checkpoint.ckpt", weights_only=True)
    assert saved["normzoo"]["batches"] == {50: 50, 1: 52}[at_once]
    continued = run_cell(cell, tmp_path / "cut")
    assert replace(continued, time={}) == replace(undisturbed, time={})
    assert all(map(torch.equal, weights, Taught.weights))


def test_a_lost_loss_is_noticed_as_soon(long: Compose, tmp_path: Path) -> None:
    result = run_cell(long("optimizer.base_lr=1e20"), tmp_path)
    assert (result.status, result.reason) == ("diverged", "the loss was not finite by step 50")


class Looks(lightning.Callback):
    def on_before_zero_grad(self, *_: Any) -> None: ...


class Mixes(Synthetic):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        (50, {}),
        (50, {"callbacks": [lightning.pytorch.callbacks.EarlyStopping("val_loss")]}),
        (1, {"callbacks": [Looks()]}),
        (1, {"callbacks": [lightning.pytorch.callbacks.LambdaCallback(on_train_batch_end=print)]}),
        (1, {"enable_progress_bar": True}),
        (1, {"enable_checkpointing": True}),
        (1, {"max_time": "00:01:00:00"}),
        (1, {"profiler": "simple"}),
        (1, {"precision": "bf16-mixed"}),
        (1, {"accumulate_grad_batches": 2}),
        (1, {"gradient_clip_val": 0.1}),
        (1, {"limit_train_batches": 1}),
        (1, {"limit_train_batches": 0.5}),
        (1, {"val_check_interval": 1}),
        (1, {"max_steps": 7}),
        (1, {"overfit_batches": 1.0}),
        (1, {"fast_dev_run": True}),
        (1, {"data": Mixes(batch_size=2)}),
        (1, {"data": lightning.LightningDataModule()}),
        (10, {"data": Synthetic(batch_size=2000, train_size=2000, image_size=20)}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_steps_are_made_singly_where_anything_looks_at_them(
    tmp_path: Path, expected: int, options: dict[str, Any]
) -> None:
    options = {"enable_progress_bar": False, "enable_checkpointing": False, "data": Synthetic(batch_size=2), **options}
    data = options.pop("data")
    if isinstance(data, InMemory):
        data.setup()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_model_summary=False, default_root_dir=tmp_path, **options
    )
    trainer.datamodule = data
    assert batches_at_once(trainer) == expected


def test_slices_are_the_batches_of_a_pass_and_skip_counts_batches() -> None:
    x = torch.randn(23, 1, 200, 200)  # of which a chunk holds six
    one, three = (TensorLoader(x, torch.arange(23), 2, shuffle=True, at_once=k) for k in (1, 3))
    assert (len(one), len(three), three.batches) == (12, 4, 12)
    singly = list(one)
    slices = list(three)
    assert [len(y) for _, y in slices] == [6, 6, 6, 5]
    assert torch.equal(torch.cat([y for _, y in slices]), torch.cat([y for _, y in singly]))
    assert torch.equal(torch.cat([part for part, _ in slices]), torch.cat([part for part, _ in singly]))
    three.set_epoch(0)
    three.skip(6)
    assert torch.equal(next(iter(three))[1], slices[2][1])
