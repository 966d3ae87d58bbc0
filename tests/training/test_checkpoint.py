"""A cell that is cut short and goes on ends as one that nothing has disturbed, bit for bit."""

import io
import logging
import multiprocessing
import os
import pickle
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

import normzoo
from normzoo.data._files import read_npz
from normzoo.errors import UserError
from normzoo.identity import cell_id
from normzoo.recording import read_recording
from normzoo.results import CellResult, read_result
from normzoo.training.cell import run_cell
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.distributed import RankError

Compose = Callable[..., dict[str, Any]]

EPOCHS, STEPS = 3, 12
END_OF_EPOCH, WITHIN_EPOCH = STEPS, 2 * STEPS + 5
STATEFUL = [name for name in normzoo.list_norms(kind="layer") if normzoo.info(name).state and normzoo.info(name).ranks]


class Watch(lightning.Callback):
    """Writes down what each step saw and drew, and ends its process when $CUT steps are done."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if (os.environ.get("CUT"), os.environ.get("CUT_RANK")) == (str(trainer.global_step), str(trainer.global_rank)):
            os.kill(os.getpid(), signal.SIGKILL)
        drawn = [float(torch.rand(())), float(np.random.rand()), random.random()]
        self.seen.append([batch_idx, float(batch[0].sum()), *drawn])

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = list(state_dict["seen"])

    def summary(self) -> dict[str, float]:
        return {"steps_seen": float(len(self.seen))}

    def recording(self) -> dict[str, Any]:
        return {"seen": self.seen}


@pytest.fixture
def watched(config: Compose) -> Compose:
    """The configuration of a cell that `cut` can end, and that saves at every chance."""

    def composed(*overrides: str) -> dict[str, Any]:
        cell = config(f"trainer.max_epochs={EPOCHS}", "sweep.checkpoint_every=0", "model.dropout=0.3", *overrides)
        cell["probe"] = {"watch": {"_target_": f"{__name__}.Watch"}}
        return cell

    return composed


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a cell until so many steps are done and its process, or one of them, is killed."""

    def run(cell: dict[str, Any], folder: Path, step: int, rank: int = 0) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("CUT", str(step))
            patch.setenv("CUT_RANK", str(rank))
            if cell["trainer"]["devices"] > 1:
                with pytest.raises(RankError):
                    run_cell(cell, folder)
            else:
                process = multiprocessing.get_context("fork").Process(target=run_cell, args=(cell, folder))
                process.start()
                process.join()
                assert process.exitcode == -signal.SIGKILL
        assert (folder / CHECKPOINT).exists()

    return run


def same(one: CellResult, other: CellResult) -> None:
    assert one.cell == other.cell  # so that their configurations differ in nothing but how often they save
    assert replace(one, time={}, config={}) == replace(other, time={}, config={})
    assert one.folder is not None
    assert other.folder is not None
    recorded, also = read_recording(one.folder), read_recording(other.folder)
    assert recorded.keys() == also.keys()
    assert all(np.array_equal(recorded[name], also[name]) for name in recorded)


@pytest.mark.parametrize("step", [END_OF_EPOCH, WITHIN_EPOCH])
@pytest.mark.parametrize(
    "overrides",
    [
        ("norm=batch_renorm",),
        pytest.param(("norm=moving_average_batch_norm", "optimizer=adamw"), marks=pytest.mark.slow),
        ("norm=cross_iteration_batch_norm",),  # which remembers batches outside its state dict
        ("norm=group_norm", "norm.channels_per_group=4", "trainer.accumulate_grad_batches=2"),
        pytest.param(
            ("trainer.check_val_every_n_epoch=2", "++data.augment=true", "optimizer.schedule=step"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("trainer.limit_val_batches=0", "trainer.limit_train_batches=0.8", "trainer.gradient_clip_val=0.1"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_cell_killed_and_continued(
    watched: Compose, cut: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    overrides: tuple[str, ...], step: int,
) -> None:  # fmt: skip
    cell = watched(*overrides)
    undisturbed = run_cell(watched(*overrides, "sweep.checkpoint_every=null"), tmp_path / "undisturbed")
    cut(cell, tmp_path / "cut", step // cell["trainer"].get("accumulate_grad_batches", 1) - (step == WITHIN_EPOCH) * 3)
    caplog.set_level(logging.INFO, "normzoo")
    caplog.clear()
    continued = run_cell(cell, tmp_path / "cut")
    assert "resumes from its checkpoint" in caplog.text
    assert f"epoch 1/{EPOCHS}" not in caplog.text
    same(continued, undisturbed)
    assert continued.status == "ok"
    assert not (tmp_path / "cut" / CHECKPOINT).exists()


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(("step", "rank"), [(6, 0), pytest.param(9, 1, marks=[pytest.mark.slow])])
def test_two_processes_killed_and_continued(
    watched: Compose, cut: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, rank: int
) -> None:
    monkeypatch.setattr("normzoo.training.checkpoint.CHECK_EVERY", 2)  # so that they save within an epoch of six steps
    cell = watched("norm=cross_iteration_batch_norm", "trainer.devices=2")
    undisturbed = run_cell(watched("norm=cross_iteration_batch_norm", "trainer.devices=2"), tmp_path / "undisturbed")
    cut(cell, tmp_path / "cut", step, rank)
    saved = torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["normzoo"]
    assert (saved["epoch"], saved["batches"]) == (1, {6: 0, 9: 2}[step])
    same(run_cell(cell, tmp_path / "cut"), undisturbed)


@pytest.mark.slow
def test_cut_again_and_again(watched: Compose, cut: Callable[..., None], tmp_path: Path) -> None:
    cell = watched("norm=batch_renorm")
    for step in (5, 12, 13, 24, 35):
        cut(cell, tmp_path / "cut", step)
    same(run_cell(cell, tmp_path / "cut"), run_cell(cell, tmp_path / "undisturbed"))


@pytest.fixture
def half_done(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a cell until its second epoch begins, in this process."""

    def run(cell: dict[str, Any], folder: Path) -> None:
        def stop(line: object, trainer: Any, module: object) -> None:
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("normzoo.training.callbacks.EpochLines.on_train_epoch_start", stop, raising=False)
            with pytest.raises(KeyboardInterrupt):
                run_cell({**cell, "sweep": {"checkpoint_every": 0}}, folder)
        assert (folder / CHECKPOINT).exists()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("norm", STATEFUL)
def test_every_norm_with_a_state(config: Compose, half_done: Callable[..., None], tmp_path: Path, norm: str) -> None:
    cell = config(f"norm={norm}", "batch_size_per_device=32", "data.image_size=16")
    half_done(cell, tmp_path / "cut")
    same(run_cell(cell, tmp_path / "cut"), run_cell(cell, tmp_path / "undisturbed"))


def test_it_saves_at_most_so_often_and_within_an_epoch_only_if_that_takes_longer(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 0.0}

    def tick(*_: Any) -> None:
        clock["now"] += 1  # second for each step

    saved: list[float] = []
    monkeypatch.setattr("normzoo.training.checkpoint.time.monotonic", lambda: clock["now"])
    monkeypatch.setattr("normzoo.training.callbacks.EpochLines.on_train_batch_start", tick, raising=False)
    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", lambda *_: saved.append(clock["now"]))
    for every, expected in ((60, []), (20, [24]), (12, [12, 24]), (5, [5, 10, 17, 22, 29, 34]), ("null", [])):
        clock["now"] = 0
        saved.clear()
        run_cell(config(f"trainer.max_epochs={EPOCHS}", f"sweep.checkpoint_every={every}"), tmp_path / str(every))
        assert saved == expected, every
    clock["now"] = 0
    saved.clear()
    each_batch = ("trainer.max_epochs=1", "trainer.limit_train_batches=3", "+trainer.val_check_interval=1")
    run_cell(config(*each_batch, "sweep.checkpoint_every=1"), tmp_path / "each batch")
    assert saved == []  # a resumed training would take the validation after the batch as done


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "empty":
        content.clear()
    elif how == "cut off":
        del content[len(content) // 2 :]
    elif how == "one byte":
        content[len(content) // 2] ^= 1
    elif how == "foreign":
        stream = io.BytesIO()
        torch.save({"state_dict": {}}, stream)
        content = bytearray(stream.getvalue())
    elif how == "of another cell":
        saved = torch.load(file, weights_only=True)
        saved["normzoo"]["cell"] = "0123456789ab"
        torch.save(saved, file)
        return
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["empty", "cut off", "one byte", "foreign", "of another cell"])
def test_a_checkpoint_that_cannot_be_used_is_told_and_left(
    watched: Compose, cut: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    cell = watched("trainer.max_epochs=2")
    cut(cell, tmp_path, END_OF_EPOCH)
    damage(tmp_path / CHECKPOINT, how)
    result = run_cell({**cell, "sweep": {"checkpoint_every": None}}, tmp_path)
    (line,) = [record.getMessage() for record in caplog.records if CHECKPOINT in record.getMessage()]
    assert str(tmp_path / CHECKPOINT) in line
    assert line.endswith("the cell starts from the beginning")
    assert ("is of another cell, 0123456789ab" in line) == (how == "of another cell")
    assert [point["epoch"] for point in result.curve] == [1, 2]
    assert result.metrics["steps_seen"] == 2 * STEPS


def test_without_resume_a_cell_starts_anew(watched: Compose, cut: Callable[..., None], tmp_path: Path) -> None:
    cell = watched("trainer.max_epochs=2")
    cut(cell, tmp_path, END_OF_EPOCH)
    cut({**cell, "sweep": {"checkpoint_every": 0, "resume": False}}, tmp_path, 3)
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)["normzoo"]
    assert (saved["epoch"], saved["batches"]) == (0, 3)


@pytest.mark.slow
def test_killed_while_it_writes_a_cell_has_the_checkpoint_before(
    watched: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = watched()
    moves = []
    replace_file = os.replace

    def third_is_deadly(draft: Any, path: Any) -> None:
        if str(path).endswith(CHECKPOINT):
            moves.append(draft)
            if len(moves) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        replace_file(draft, path)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", third_is_deadly)
        process = multiprocessing.get_context("fork").Process(target=run_cell, args=(cell, tmp_path / "cut"))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["normzoo"]["batches"] == 2
    assert list((tmp_path / "cut").glob(".*.tmp"))
    same(run_cell(cell, tmp_path / "cut"), run_cell(cell, tmp_path / "undisturbed"))
    assert sorted(file.name for file in (tmp_path / "cut").iterdir()) == ["recording.npz", "result.json"]


def test_a_full_disk_costs_a_warning_and_not_the_training(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise UserError("cannot write: no space left on device")

    monkeypatch.setattr("normzoo.training.checkpoint_io.write_atomic", full)
    result = run_cell(config("sweep.checkpoint_every=0", "trainer.limit_train_batches=1"), tmp_path)
    assert result.status == "ok"
    assert "no checkpoint: cannot write: no space left on device" in caplog.text


class Marks:
    """Pickled, it is code: whoever unpickles it leaves the file that it names."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def poisoned(file: Path, marker: Path, where: str) -> None:
    """Put code into a checkpoint: into each of its parts, in torch's format and in plain pickle's."""
    saved = torch.load(file, weights_only=True)
    if where == "plain pickle":
        file.write_bytes(pickle.dumps({"normzoo": Marks(marker)}))
        return
    if where == "remembered":
        saved["normzoo"]["ranks"][0]["remembered"] = {"": Marks(marker)}
    else:
        saved[where] = Marks(marker)
    torch.save(saved, file)


@pytest.mark.parametrize("where", ["normzoo", "state_dict", "callbacks", "remembered", "plain pickle"])
def test_no_checkpoint_runs_code(
    config: Compose, half_done: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    marker, cell = tmp_path / "it ran", config("norm=cross_iteration_batch_norm", "trainer.limit_train_batches=2")
    half_done(cell, tmp_path / "cell")
    poisoned(tmp_path / "cell" / CHECKPOINT, marker, where)
    result = run_cell({**cell, "sweep": {"checkpoint_every": None}}, tmp_path / "cell")
    assert not marker.exists()
    assert result.status == "ok"
    assert f"{CHECKPOINT} cannot be read" in caplog.text


def test_no_recording_or_cached_data_runs_code(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    np.savez(tmp_path / "recording.npz", images=np.array([Marks(marker)], dtype=object))
    for read in (read_recording, lambda folder: read_npz(folder / "recording.npz", {"images": (1,)})):
        with pytest.raises(UserError, match="corrupt"):
            read(tmp_path)
    assert not marker.exists()


class Forgetful(lightning.Callback):
    """Counts steps and has no state_dict of its own."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += 1

    def summary(self) -> dict[str, float]:
        return {"steps_counted": float(self.steps)}

    def recording(self) -> dict[str, Any]:
        return {}


class Unsafe(Forgetful):
    """Keeps a state that could only be read by running code."""

    def state_dict(self) -> dict[str, Any]:
        return {"path": Path("here")}


def test_a_probe_whose_state_is_no_data_costs_the_checkpoint_and_not_the_training(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cell = config("sweep.checkpoint_every=0", "trainer.limit_train_batches=2")
    cell["probe"] = {"unsafe": {"_target_": f"{__name__}.Unsafe"}}
    assert run_cell(cell, tmp_path).status == "ok"
    assert "no checkpoint: pathlib" in caplog.text


def test_with_a_probe_that_cannot_be_saved_no_checkpoint_is(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "normzoo")
    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", pytest.fail)
    cell = config("sweep.checkpoint_every=0")
    cell["probe"] = {"forgetful": {"_target_": f"{__name__}.Forgetful"}}
    assert run_cell(cell, tmp_path).metrics["steps_counted"] == 2 * STEPS
    assert "a callback without state_dict() cannot be resumed" in caplog.text


def test_the_time_of_a_continued_cell_counts_what_it_took_before(
    watched: Compose, cut: Callable[..., None], tmp_path: Path
) -> None:
    cell = watched()
    cut(cell, tmp_path, WITHIN_EPOCH)
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    before = saved["callbacks"]["Recorder"]
    before["wall_s"] += 1000
    before["training_s"] += 100
    torch.save(saved, tmp_path / CHECKPOINT)
    time = run_cell(cell, tmp_path).time
    assert 1000 < time["wall_s"] < 1100
    assert time["ms_per_step"] == pytest.approx(1000 * 100 / (EPOCHS * STEPS), rel=0.1)


def test_a_sweep_continues_a_half_done_cell(
    cli: Callable[..., tuple[int, str, str]], tiny: tuple[str, ...], config: Compose, half_done: Callable[..., None],
    tmp_path: Path,
) -> None:  # fmt: skip
    cell = config()
    folder = tmp_path / "s" / cell_id(cell)
    half_done(cell, folder)
    code, out, err = cli("train", "-m", *tiny, "seed=0", "hydra.sweep.dir=s")
    assert code == 0, out + err
    assert "1 to run (1 from a checkpoint)" in out
    assert "resumes from its checkpoint, after epoch 1" in (folder / "cell.log").read_text()
    same(read_result(folder), run_cell(cell, tmp_path / "undisturbed"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_cell_on_a_gpu_killed_and_continued(
    watched: Compose, cut: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    cell = watched(
        "trainer=gpu", "trainer.deterministic=true", "trainer.strategy=torchrun", f"trainer.precision={precision}"
    )
    undisturbed = run_cell(cell, tmp_path / "undisturbed")
    monkeypatch.setenv("CUT", str(WITHIN_EPOCH))
    monkeypatch.setenv("CUT_RANK", "0")
    with pytest.raises(RankError):
        run_cell(cell, tmp_path / "cut")
    monkeypatch.delenv("CUT")
    same(run_cell(cell, tmp_path / "cut"), undisturbed)
