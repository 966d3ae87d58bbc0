"""Cells of several processes: how many there are, what they are given, and what becomes of a cell when one dies."""

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import psutil
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from normzoo.errors import UserError
from normzoo.models.plain_cnn import PlainCNN
from normzoo.results import read_result, read_results
from normzoo.training.callbacks import RankCheck
from normzoo.training.cell import run_cell
from normzoo.training.check import check_devices
from normzoo.training.config import parse
from normzoo.training.distributed import RankError

Compose = Callable[..., dict[str, Any]]
Cli = Callable[..., tuple[int, str, str]]

TWO = ("trainer.devices=2", "trainer.max_epochs=1")
SOON_S = 15
ENDS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(7),
    "asks to exit": lambda: sys.exit(0),
    "hang": lambda: time.sleep(120),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}


class Failing(PlainCNN):
    """A plain CNN that one rank cannot take beyond its third step."""

    def __init__(self, how: str, at: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.how, self.at, self.steps = how, at, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training and x.device.type != "meta"
        if self.steps == 3 and int(os.environ["RANK"]) == self.at:
            if self.how == "raise":
                raise ValueError("the third step is broken")
            if self.how == "memory":
                raise torch.OutOfMemoryError("tried to allocate too much")
            ENDS[self.how]()
        return super().forward(x)


def failing(how: str, at: int) -> tuple[str, ...]:
    return (*TWO, f"model._target_={__name__}.Failing", f"+model.how={how}", f"+model.at={at}")


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("how", "at", "status", "words"),
    [
        ("raise", 0, "error", "rank 0: ValueError: the third step is broken"),
        ("raise", 1, "error", "rank 1: ValueError: the third step is broken"),
        ("memory", 1, "oom", "rank 1: OutOfMemoryError: tried to allocate too much"),
        ("exit", 1, "error", "rank 1 ended with exit code 7; what it has printed says why"),
        ("asks to exit", 1, "error", "rank 1: RuntimeError: the process asked to end, with exit code 0"),
        ("kill", 0, "killed", "rank 0 was ended from outside (SIGKILL)"),
        ("kill", 1, "killed", "rank 1 was ended from outside (SIGKILL)"),
        ("crash", 1, "error", "rank 1 crashed (SIGSEGV); what it has printed says where"),
    ],
)
def test_a_rank_that_dies_ends_its_cell_within_seconds(
    config: Compose, tmp_path: Path, how: str, at: int, status: str, words: str
) -> None:
    environment, handlers = dict(os.environ), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    children = set(psutil.Process().children(recursive=True))
    started = time.monotonic()
    with pytest.raises(RankError):
        run_cell(config(*failing(how, at)), tmp_path)
    assert time.monotonic() - started < SOON_S
    result = read_result(tmp_path)
    assert (result.status, result.reason) == (status, words)
    trace = (tmp_path / "error.txt").read_text()
    assert words.removeprefix(f"rank {at}: ") in trace
    assert ("in forward" in trace) == (how in ("raise", "memory", "asks to exit"))
    more = set(psutil.Process().children(recursive=True)) - children
    assert not [child for child in more if child.status() != psutil.STATUS_ZOMBIE]
    assert {name for name in os.environ if name not in environment} <= {"PL_GLOBAL_SEED", "PL_SEED_WORKERS"}
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (tmp_path / ".ranks").exists()


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("at", [0, 1])
def test_a_rank_that_hangs_is_named_and_ends_its_cell(config: Compose, tmp_path: Path, at: int) -> None:
    started = time.monotonic()
    with pytest.raises(RankError):
        run_cell(config(*failing("hang", at), "sweep.stall_limit=6"), tmp_path)
    assert time.monotonic() - started < 60
    result = read_result(tmp_path)
    assert result.status == "timeout"
    assert (result.reason or "").startswith(f"rank {at} hangs: the others have waited for it longer than sweep.stall")


@pytest.mark.slow
@pytest.mark.ddp
def test_a_folder_without_a_word_of_the_last_failure(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(RankError):
        run_cell(config(*failing("raise", 1)), tmp_path)
    assert run_cell(config(*TWO), tmp_path).status == "ok"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


class Facts(lightning.Callback):
    """What each process is: its threads, whether its log goes anywhere, and a random number of its own."""

    def on_train_end(self, trainer: Any, module: Any) -> None:
        own = torch.tensor([torch.get_num_threads(), float(logging.getLogger("normzoo").isEnabledFor(logging.INFO))])
        drawn = torch.tensor([random.random(), float(np.random.rand()), float(torch.rand(()))])
        self.facts = [torch.empty(5) for _ in range(2)]
        torch.distributed.all_gather(self.facts, torch.cat([own, drawn]))

    def summary(self) -> dict[str, float]:
        first, second = self.facts
        same = {name: float(second[i]) for i, name in enumerate(("threads", "logs")) if first[i] == second[i]}
        return {**same, "same_numbers": float((first[2:] == second[2:]).sum())}

    def recording(self) -> dict[str, Any]:
        return {}


@pytest.mark.ddp
def test_ranks_have_threads_and_logs_alike_and_random_numbers_of_their_own(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "normzoo")
    cell = config(*TWO, "trainer.threads=2", "trainer.limit_train_batches=2")
    cell["probe"] = {"facts": {"_target_": f"{__name__}.Facts"}}
    metrics = run_cell(cell, tmp_path).metrics
    assert (metrics["threads"], metrics["logs"], metrics["same_numbers"]) == (2, 1, 0)


@pytest.mark.ddp
def test_the_strategy_torchrun_on_one_device_changes_nothing(config: Compose, tmp_path: Path) -> None:
    here = run_cell(config("trainer.max_epochs=1"), tmp_path / "here")
    there = run_cell(config("trainer.max_epochs=1", "trainer.strategy=torchrun"), tmp_path / "there")
    assert (there.world_size, there.curve, there.metrics) == (1, here.curve, here.metrics)


@pytest.mark.ddp
@pytest.mark.slow
def test_processes_may_also_be_spawned_as_on_gpus(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked = run_cell(config(*TWO), tmp_path / "forked")
    monkeypatch.setattr("normzoo.training.cell._start_method", lambda config: "spawn")
    # In a spawned process the data set cannot have come along.
    monkeypatch.setattr("normzoo.data.in_memory.InMemory.__reduce_ex__", pytest.fail)
    spawned = run_cell(config(*TWO), tmp_path / "spawned")
    assert spawned.world_size == 2
    assert spawned.curve == forked.curve


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("order", ["1,2", "2,1", "4,1,2"])
def test_numbers_of_devices_in_one_sweep_in_any_order(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, order: str
) -> None:
    code, out, err = cli(
        "train", "-m", *tiny, f"trainer.devices={order}", "norm=sync_batch_norm", "trainer.max_epochs=1",
        "trainer.limit_train_batches=2", "hydra.sweep.dir=s",
    )  # fmt: skip
    assert code == 0, out + err
    results = {result.config["trainer"]["devices"]: result for result in read_results(tmp_path / "s")[0]}
    assert sorted(results) == sorted(map(int, order.split(",")))
    assert all(result.world_size == devices for devices, result in results.items())
    assert all(result.normalization_batch == 8 * devices for devices, result in results.items())
    for devices, result in results.items():
        assert list(result.values_per_statistic.values()) == [devices * 8 * pixels for pixels in (64, 16, 4, 1)]
        assert result.metrics["lr"] == pytest.approx(0.05 * 8 * devices / 32)
        assert (tmp_path / "s" / result.cell / "cell.log").read_text().count("epoch 1/1") == 1


def test_processes_may_share_cores_but_not_gpus(config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normzoo.training.check.processor_cores", lambda: [0, 1])
    check_devices(parse(config("trainer.devices=8")))
    with pytest.raises(UserError, match=r"trainer.devices=9, .* 2 processor cores; ask for at most 8"):
        check_devices(parse(config("trainer.devices=9")))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    check_devices(parse(config("trainer=gpu", "trainer.devices=4")))
    with pytest.raises(UserError, match=r"trainer.devices=5, .* 4 GPUs; ask for at most 4"):
        check_devices(parse(config("trainer=gpu", "trainer.devices=5")))


def test_a_number_of_processes_that_is_not_the_configured_one_is_an_error(config: Compose, tmp_path: Path) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, callbacks=[RankCheck(parse(config("trainer.devices=2")))],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"1 processes train together, but trainer.devices=2 .* ask for 2"):
        trainer.fit(BoringModel())


def test_torchrun_with_another_number_of_processes(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"started 4 processes, 2 of them .* trainer.devices=2 trainer.num_nodes=2"):
        run_cell(config("trainer.devices=2"), tmp_path)


def test_a_sweep_under_torchrun(cli: Cli, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    code, out, err = cli("train", "-m", *tiny, "seed=0,1", "hydra.sweep.dir=s")
    assert code == 2, out + err
    assert "run the sweep without torchrun" in err


def test_several_machines_without_torchrun(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"started on each machine: torchrun --nnodes=2 --nproc-per-node=1"):
        run_cell(config("trainer.num_nodes=2"), tmp_path)


def test_a_rank_that_somebody_else_has_set_says_nothing(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch systems and containers set these for programs of theirs."""
    alone = run_cell(config("trainer.max_epochs=1"), tmp_path / "alone")
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere"}.items():
        monkeypatch.setenv(name, value)
    result = run_cell(config("trainer.max_epochs=1"), tmp_path / "one_of_two")
    assert (result.world_size, result.curve) == (1, alone.curve)


@pytest.fixture
def two_machines(tmp_path: Path, tiny: tuple[str, ...]) -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    """Run `normzoo train ...` under two torchruns of one process each, which meet on this machine."""
    script = tmp_path / "run.py"
    script.write_text("from normzoo.cli import main; main()")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    torchrun = (
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}", "--rdzv-id=test", "--local-addr=127.0.0.1", str(script),
    )  # fmt: skip

    def run(*overrides: str) -> list[subprocess.CompletedProcess[str]]:
        command = [*torchrun, "train", *tiny, "trainer.num_nodes=2", "hydra.run.dir=out", *overrides]
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        programs = [
            subprocess.Popen(
                command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for _ in range(2)
        ]  # fmt: skip
        outputs = [program.communicate(timeout=120)[0] for program in programs]
        return [
            subprocess.CompletedProcess(command, program.returncode, output)
            for program, output in zip(programs, outputs, strict=True)
        ]

    return run


@pytest.mark.ddp
@pytest.mark.slow
def test_two_machines_train_as_two_devices_of_one_do(
    two_machines: Callable[..., Any], config: Compose, tmp_path: Path
) -> None:
    here = run_cell(config(*TWO), tmp_path / "here")
    programs = two_machines("trainer.max_epochs=1")
    assert [program.returncode for program in programs] == [0, 0], programs
    result = read_result(tmp_path / "out")
    assert (result.status, result.world_size) == ("ok", 2)
    assert result.curve == here.curve
    assert sum(program.stdout.count("epoch 1/1") for program in programs) == 1


@pytest.mark.ddp
@pytest.mark.slow
def test_an_error_on_the_second_machine_is_recorded(two_machines: Callable[..., Any], tmp_path: Path) -> None:
    programs = two_machines(f"model._target_={__name__}.Failing", "+model.how=raise", "+model.at=1")
    assert all(program.returncode for program in programs)
    result = read_result(tmp_path / "out")
    assert (result.status, result.reason) == ("error", "rank 1: ValueError: the third step is broken"), programs
    assert "in forward" in (tmp_path / "out" / "error.txt").read_text()
