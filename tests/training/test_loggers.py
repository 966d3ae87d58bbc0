"""Each logger, on a cell of its own and without a network."""

import csv
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from normzoo.training import loggers
from normzoo.training.cell import run_cell

Compose = Callable[..., dict[str, Any]]
Cli = Callable[..., tuple[int, str, str]]
CELL = ("norm=group_norm", "norm.channels_per_group=8", "seed=3", "trainer.max_epochs=2")
NAME = "group_norm-batch8-seed3"


@pytest.fixture
def train(config: Compose, tmp_path: Path) -> Callable[..., Path]:
    """Train a tiny cell in a sweep's folder with a logger; gives the cell's folder."""
    folder = tmp_path / "a_sweep" / "0123456789ab"

    def run(logger: str, *overrides: str) -> Path:
        result = run_cell(config(*CELL, f"logger={logger}", f"logger.folder={folder}", *overrides), folder)
        assert result is not None
        assert result.status == "ok"
        return folder

    return run


def test_csv_has_a_row_for_each_epoch_and_the_configuration(train: Callable[..., Path]) -> None:
    folder = train("csv") / "csv" / "version_0"
    with open(folder / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2
    assert all(float(row["val_error_running"]) <= 100 for row in rows)
    assert "channels_per_group: 8" in (folder / "hparams.yaml").read_text()


def test_tensorboard_events_lie_under_the_name_of_the_run(train: Callable[..., Path]) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = train("tensorboard") / "tensorboard" / NAME
    events = reader.EventAccumulator(str(folder)).Reload()
    assert len(events.Scalars("val_error_running")) == 2


def wandb_records(file: Path) -> Iterator[bytes]:
    """The records of a run's file: those of a LevelDB log, in blocks of 32 KiB, behind a head of 7 bytes."""
    data, at, record = file.read_bytes(), 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_keeps_a_closed_run_for_later(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = train("wandb")
    wandb.teardown()  # its service, and the threads that speak with it
    (kept,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    records = [Record.FromString(data) for data in wandb_records(kept)]
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.display_name, run.run_group, run.run_id, run.project) == (
        f"{NAME}-{folder.name}", "a_sweep", folder.name, "normzoo",
    )  # fmt: skip
    settings = {update.key or update.nested_key[0] for record in records for update in record.config.update}
    assert {"norm", "batch_size_per_device", "seed"} <= settings
    logged = [{item.key or item.nested_key[0] for item in record.history.item} for record in records]
    assert sum("val_error_running" in keys for keys in logged) == 2
    assert any(record.HasField("exit") for record in records)


@pytest.mark.slow
def test_mlflow_has_a_run_a_cell_and_a_continued_cell_goes_on_in_it(train: Callable[..., Path]) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    folder = train("mlflow")
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("a_sweep")

    def runs() -> list[Any]:
        return list(client.search_runs([experiment.experiment_id]))

    (run,) = runs()
    assert run.info.run_name == f"{NAME}-{folder.name}"
    assert run.info.status == "FINISHED"
    assert run.data.params["norm/channels_per_group"] == "8"
    assert len(client.get_metric_history(run.info.run_id, "val_error_running")) == 2

    client.update_run(run.info.run_id, "RUNNING")  # as one that was killed leaves it
    train("mlflow")
    (run,) = runs()
    assert run.info.status == "FINISHED"
    train("mlflow")
    assert len(runs()) == 2


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_told_before_anything_trains(
    name: str, cli: Cli, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda module: None)
    code, _, err = cli("train", "-m", *tiny, f"logger={name}", "seed=0,1", "hydra.sweep.dir=out")
    assert code == 2
    assert err.count("\n") == 1
    assert f"logger={name} needs the package {name}" in err
    assert f"pip install 'normzoo[{name}]'" in err
    assert not list((tmp_path / "out").glob("*/result.json"))


def test_every_logger_names_its_runs_alike(config: Compose) -> None:
    for file in (Path(__file__).parents[2] / "conf" / "logger").glob("*.yaml"):
        chosen = config(*CELL, f"logger={file.stem}", *([] if file.stem == "none" else ["logger.folder=x"]))["logger"]
        assert chosen["name"] == file.stem
        assert chosen.get("run", NAME) == NAME


def test_loggers_are_extras_of_the_package() -> None:
    import tomllib

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for _, extra in loggers._NEEDS.values():
        assert extras["optional-dependencies"][extra]
