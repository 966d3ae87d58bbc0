"""Data modules that are not ours: a plain LightningDataModule trains as ours do, or is refused before it does."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from normzoo.data.own import TensorData
from normzoo.results import read_results
from normzoo.sweep.precheck import Precheck
from normzoo.training.cell import run_cell
from normzoo.training.config import parse
from normzoo.training.instantiate import build_data

OWN = "tests.training.test_own_data"
EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
Compose = Callable[..., dict[str, Any]]
SET = TensorDataset(torch.randn(42, 1, 8, 8), torch.arange(42) % 3)


class Plain(LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(SET, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(SET, 7)


class Ordered(Plain):
    def train_dataloader(self) -> Any:
        return DataLoader(SET, drop_last=True)


class Weighted(Plain):
    def train_dataloader(self) -> Any:
        return DataLoader(SET, sampler=WeightedRandomSampler(torch.ones(42).tolist(), 42))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(SET)


class Streamed(Plain):
    def train_dataloader(self) -> Any:
        return DataLoader(Stream())


class Listed(Plain):
    def val_dataloader(self) -> Any:
        return [DataLoader(SET)]


class Unlabelled(Plain):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(SET.tensors[0]))


class Targets(Plain):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(SET.tensors[0], torch.randn(42)))


class Augmented(Plain):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


class Tensors(TensorData):
    def __init__(self) -> None:
        super().__init__(*SET.tensors, *SET.tensors)


class NoModule:
    pass


def cell(config: Compose, name: str, *overrides: str) -> dict[str, Any]:
    return {**config("trainer.max_epochs=1", *overrides), "data": {"_target_": f"{OWN}.{name}"}}


@pytest.mark.parametrize("name", ["Plain", "Tensors"])
def test_a_plain_data_module_trains(config: Compose, tmp_path: Path, name: str) -> None:
    result = run_cell(cell(config, name), tmp_path)
    assert result is not None
    assert result.status == "ok"
    assert result.metrics["num_classes"] == 3
    assert result.metrics["val_error_population"] is not None
    assert result.metrics["steps"] == (6 if name == "Plain" else 5)


@pytest.mark.parametrize(("name", "shuffled"), [("Plain", True), ("Ordered", False)])
def test_training_is_shuffled_as_its_loader_is(config: Compose, name: str, shuffled: bool) -> None:
    data = build_data(parse(cell(config, name)))
    data.setup("fit")
    epochs = [torch.cat([y for _, y in data.train_dataloader()]) for _ in range(2)]
    again = build_data(parse(cell(config, name)))
    again.setup("fit")
    assert torch.cat([y for _, y in again.train_dataloader()]).equal(epochs[0])
    assert epochs[0].equal(SET.tensors[1][: len(epochs[0])]) != shuffled


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Weighted", "Weighted.train_dataloader draws by WeightedRandomSampler, which cannot be resumed"),
        ("Streamed", "train is an IterableDataset"),
        ("Listed", "it must be one DataLoader"),
        ("Unlabelled", "it must be (images, labels)"),
        ("Targets", "labels (N) of whole numbers"),
        ("Augmented", "Augmented.on_after_batch_transfer: "),
        ("NoModule", "is a NoModule; it must be a LightningDataModule"),
        ("Pain", "did you mean Plain?"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before(config: Compose, name: str, said: str) -> None:
    reason = Precheck().of(parse(cell(config, name)))[0]
    assert reason is not None
    assert said in reason
    assert "\n" not in reason


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-c", "from normzoo.cli import main; main()", "train", "-m", "--config-dir", "conf"),
        *("data=blobs,stripes", "norm=group_norm", "batch_size_per_device=8", "trainer=cpu", "trainer.max_epochs=1"),
        f"hydra.sweep.dir={tmp_path}",
    ]
    path = os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=EXAMPLES / "own_data", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [result.status for result in read_results(tmp_path)[0]] == ["ok", "ok"]
