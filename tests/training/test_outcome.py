"""Cells that come to grief in every way there is, in real sweeps: what is recorded, and that the sweep goes on."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from normzoo.models.plain_cnn import PlainCNN
from normzoo.results import CellResult, read_result, read_results

Cli = Callable[..., tuple[int, str, str]]
PLAIN = "normzoo.models.plain_cnn.PlainCNN"


def second_epoch(then: Callable[[], object]) -> Callable[..., PlainCNN]:
    """A plain CNN that does this in its second epoch of training."""

    def build(**arguments: object) -> PlainCNN:
        model = PlainCNN(**arguments)  # type: ignore[arg-type]
        steps = [0]

        def step(*_: object) -> None:
            steps[0] += model.training
            if steps[0] > 12:
                then()

        if next(model.parameters()).device.type != "meta":
            model.register_forward_hook(step)
        return model

    return build


def too_much() -> None:
    bytearray(2**60)


def too_much_for_torch() -> None:
    import torch

    torch.empty(2**50)


def eat() -> None:
    eaten.append(bytearray(b"x" * (1500 * 2**20)))
    time.sleep(600)


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


eaten: list[bytearray] = []
Exits = second_epoch(lambda: os._exit(3))
Killed = second_epoch(lambda: os.kill(os.getpid(), signal.SIGKILL))
Interrupted = second_epoch(lambda: os.kill(os.getpid(), signal.SIGINT))
Terminated = second_epoch(lambda: os.kill(os.getpid(), signal.SIGTERM))
Crashes = second_epoch(crash)
OutOfMemory = second_epoch(too_much)
TorchOutOfMemory = second_epoch(too_much_for_torch)
Eats = second_epoch(eat)
Slow = second_epoch(lambda: time.sleep(0.8))
Hangs = second_epoch(lambda: time.sleep(600))


def HangsBeforeItBegins(**arguments: object) -> PlainCNN:
    """A plain CNN that takes for ever to be built, though not to be planned."""
    model = PlainCNN(**arguments)  # type: ignore[arg-type]
    if next(model.parameters()).device.type != "meta":
        time.sleep(600)
    return model


EXPECTED = {
    "Exits": ("error", "exit code 3"),
    "Killed": ("killed", "ended from outside (SIGKILL)"),
    "Crashes": ("error", "crashed (SIGSEGV)"),
    "OutOfMemory": ("oom", "MemoryError"),
    "TorchOutOfMemory": ("oom", "can't allocate memory"),
    "Eats": ("oom", "more than sweep.memory_limit=1;"),
    "Hangs": ("timeout", "longer than sweep.time_limit=0:15, in epoch 2 of 2"),
}


@pytest.mark.slow
def test_every_death_is_recorded_with_its_cause_and_the_sweep_goes_on(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    targets = ",".join([*(f"{__name__}.{name}" for name in EXPECTED), PLAIN])
    code, out, err = cli(
        "train", "-m", *tiny, f"model._target_={targets}", "hydra.sweep.dir=s",
        "sweep.time_limit=15s", "sweep.memory_limit=1", "sweep.checkpoint_every=null",
    )  # fmt: skip
    assert code == 1, out + err
    results = {result.config["model"]["_target_"]: result for result in read_results(tmp_path / "s")[0]}
    assert results.pop(PLAIN).status == "ok"
    found = {target.rpartition(".")[2]: result for target, result in results.items()}
    assert {name: result.status for name, result in found.items()} == {n: status for n, (status, _) in EXPECTED.items()}
    for name, (_, words) in EXPECTED.items():
        assert words in (found[name].reason or ""), name
        assert [point["epoch"] for point in found[name].curve] == [1], name
        assert found[name].metrics == {}
        assert words[:20] in out
    for name in ("Exits", "Killed", "Eats", "Hangs"):
        assert "sweep.retry=failed" in (found[name].reason or "")
    assert "Segmentation fault" in (tmp_path / "s" / found["Crashes"].cell / "cell.log").read_text()
    assert found["Hangs"].time["wall_s"] >= 15
    summary = (tmp_path / "s" / "summary.md").read_text()
    for title in ("Cells with an error", "Killed cells", "Cells out of memory", "Cells out of time"):
        assert title in summary

    # On resume nothing of it runs again unless asked for.
    code, out, err = cli("train", "-m", *tiny, f"model._target_={targets}", "hydra.sweep.dir=s")
    assert "0 to run" in out, out + err
    assert "7 failed before" in out
    code, out, err = cli(
        "train",
        "-m",
        *tiny,
        f"model._target_={__name__}.Exits,{PLAIN}",
        "hydra.sweep.dir=s",
        "sweep.retry=failed",
    )
    assert "1 to run" in out, out + err


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.ddp)])
def test_a_cell_that_hangs_is_ended_and_one_that_takes_long_is_not(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    monkeypatch.setattr("normzoo.sweep.cell.GRACE_S", 0.1)
    hang = ("Hangs", "HangsBeforeItBegins")
    _, out, err = cli(
        "train", "-m", *tiny, f"model._target_={','.join(f'{__name__}.{name}' for name in (*hang, 'Slow'))}",
        "hydra.sweep.dir=s", "sweep.stall_limit=5", "seed=0", f"trainer.devices={devices}",
        f"batch_size_per_device={8 // devices}", "hydra.launcher.n_jobs=3",
    )  # fmt: skip
    results = {result.config["model"]["_target_"]: result for result in read_results(tmp_path / "s")[0]}
    assert results[f"{__name__}.Slow"].status == "ok", out + err
    for name in hang:
        hung = results[f"{__name__}.{name}"]
        assert hung.status == "timeout", out + err
        assert "longer than sweep.stall_limit=0:05" in (hung.reason or "")
        assert "raise the limit" in (hung.reason or "")


@pytest.mark.slow
def test_a_loss_that_is_not_a_number(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli("train", "-m", *tiny, "norm=identity", "optimizer.base_lr=1e18,0.05", "hydra.sweep.dir=s")
    results = {result.config["optimizer"]["base_lr"]: result for result in read_results(tmp_path / "s")[0]}
    assert {lr: result.status for lr, result in results.items()} == {1e18: "diverged", 0.05: "ok"}, out + err
    assert "not finite" in (results[1e18].reason or "")
    assert code == 0


def only(folder: Path) -> CellResult:
    (result,) = read_results(folder)[0]
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("model", "name"), [("Interrupted", "SIGINT"), ("Terminated", "SIGTERM")])
def test_a_cell_interrupted_from_elsewhere_was_killed(
    model: str, name: str, cli: Cli, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    _, out, err = cli("train", "-m", *tiny, f"model._target_={__name__}.{model}", "seed=0", "hydra.sweep.dir=s")
    result = only(tmp_path / "s")
    assert (result.status, f"({name})" in (result.reason or "")) == ("killed", True), out + err


@pytest.mark.slow
def test_an_interrupted_cell_alone_says_whether_and_how_it_goes_on(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    model = f"model._target_={__name__}.Interrupted"
    code, _, err = cli("train", *tiny, model, "hydra.run.dir=new one", "sweep.checkpoint_every=null")
    assert (code, err) == (
        130,
        f"interrupted before its first checkpoint: {tmp_path / 'new one'} holds nothing to resume from\n",
    )
    code, _, err = cli("train", *tiny, model, "hydra.run.dir=old", "sweep.checkpoint_every=0", "sweep.resume=false")
    assert code == 130
    said, command = err.splitlines()
    assert said == "interrupted; this command resumes it from its checkpoint:"
    assert command.split() == ["normzoo", "train", *tiny, model, "sweep.checkpoint_every=0", "hydra.run.dir=old"]
    code, out, err = cli(*command.replace(f"{__name__}.Interrupted", PLAIN).split()[1:])
    assert "checkpoint.ckpt is of another cell" in out + err  # it is the one that is looked for


@pytest.mark.slow
@pytest.mark.ddp
def test_a_rank_that_the_kernel_ended_for_want_of_memory(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an empty machine: a rank is killed as the kernel would, and the kernel's count is one that grows."""
    from normzoo.sweep.cell import Cell
    from normzoo.sweep.supervisor import Ending

    settle = Cell.settle

    def with_a_count(cell: Cell, ending: Ending) -> CellResult:
        assert read_result(cell.folder).status == "killed"
        return settle(cell, Ending(ending.code, oom_kills=1))

    monkeypatch.setattr(Cell, "settle", with_a_count)
    cli(
        "train", "-m", *tiny, "trainer.devices=2", "trainer.max_epochs=4", "seed=0",
        f"model._target_={__name__}.Killed", "hydra.sweep.dir=s",
    )  # fmt: skip
    result = only(tmp_path / "s")
    assert result.status == "oom"
    assert "the kernel ended one of its processes" in (result.reason or "")
    assert "rank" in (result.reason or "")
    json.loads((tmp_path / "s" / result.cell / "result.json").read_text())
