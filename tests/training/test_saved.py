"""A trained net stays in its cell's folder, and `normzoo.load` builds it again from there."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import normzoo
from normzoo.errors import UserError
from normzoo.identity import cell_id
from normzoo.training.cell import run_cell
from normzoo.training.config import parse
from normzoo.training.instantiate import build_data
from normzoo.training.module import Classifier
from normzoo.training.saved import MODEL, NET
from normzoo.training.small_batches import WithoutOneDNN

Compose = Callable[..., dict[str, Any]]


def error_of(model: torch.nn.Module, cell: dict[str, Any]) -> float:
    data: Any = build_data(parse(cell))
    data.setup("fit")
    x, y = data.tensors("val")
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) != y).double().mean())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.conftest import composed

    folder = tmp_path_factory.mktemp("cell")
    # A rate so high that the last epoch is not the best one.
    run_cell(composed("sweep.save=best", "trainer.max_epochs=3", "optimizer.base_lr=2", "seed=1"), folder / "best")
    run_cell(composed("sweep.save=last", "optimizer.trains=sampled", "norm=batch_renorm"), folder / "last")
    return folder


def test_the_last_net_has_the_error_of_the_record(saved: Path) -> None:
    record = normzoo.results.read_result(saved / "last")
    model = normzoo.load(saved / "last")
    assert not model.training
    assert error_of(model, record.config) == pytest.approx(record.metrics["val_error_running"])
    assert record.status == "ok"


def test_the_best_net_is_that_of_the_epoch_with_the_lowest_error(saved: Path) -> None:
    record = normzoo.results.read_result(saved / "best")
    best = min(record.curve, key=lambda point: point["val_error_running"])
    assert torch.load(saved / "best" / MODEL, weights_only=True)["global_step"] == best["step"]
    for cell in (saved / "best", saved / "best" / "result.json", str(saved / "best" / MODEL), record):
        assert error_of(normzoo.load(cell), record.config) == pytest.approx(best["val_error_running"])


def test_lightning_opens_it(saved: Path) -> None:
    model, config = normzoo.load(saved / "last"), parse(normzoo.results.read_result(saved / "last").config)
    arguments = {"model": model, "num_classes": 10, "config": config, "convolving": WithoutOneDNN(small=False)}
    opened = Classifier.load_from_checkpoint(saved / "last" / MODEL, **arguments, weights_only=True)
    assert opened.hparams["norm"]["name"] == "batch_renorm"


def test_a_model_can_be_given(saved: Path) -> None:
    built = normzoo.load(saved / "best")
    given = normzoo.load(saved / "best", normzoo.load(saved / "best").apply(lambda layer: layer.train()))
    assert all(torch.equal(one, other) for one, other in zip(built.parameters(), given.parameters(), strict=True))
    with pytest.raises(UserError, match="do not fit Linear"):
        normzoo.load(saved / "best", torch.nn.Linear(2, 2))


def test_what_to_save_names_no_other_cell(config: Compose) -> None:
    assert len({cell_id(config(*option)) for option in ((), ("sweep.save=last",), ("sweep.save=best",))}) == 1


def test_a_resumed_cell_keeps_the_same_best_net(
    config: Compose, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(line: object, trainer: Trainer, module: object) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    cell = config(
        "sweep.save=best", "trainer.max_epochs=3", "optimizer.base_lr=2", "seed=1", "sweep.checkpoint_every=0"
    )
    with monkeypatch.context() as patch:
        patch.setattr("normzoo.training.callbacks.EpochLines.on_train_epoch_start", stop, raising=False)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, tmp_path)
    (tmp_path / MODEL).rename(tmp_path / "best_so_far")
    assert normzoo.load(tmp_path)  # from the checkpoint of the interrupted cell
    (tmp_path / "best_so_far").rename(tmp_path / MODEL)
    run_cell(cell, tmp_path)
    first, second = (torch.load(one / MODEL, weights_only=True) for one in (saved / "best", tmp_path))
    assert first["global_step"] == second["global_step"]
    assert all(torch.equal(value, second["state_dict"][key]) for key, value in first["state_dict"].items())


def test_a_cell_resumed_without_keeping_its_net_leaves_no_net_of_before(config: Compose, tmp_path: Path) -> None:
    (tmp_path / MODEL).touch()
    run_cell(config("trainer.max_epochs=1"), tmp_path)
    assert not (tmp_path / MODEL).exists()


def test_a_cell_trained_anew_leaves_no_net_of_before(config: Compose, tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(b"old")
    run_cell(config("trainer.max_epochs=1", "trainer.limit_train_batches=1"), tmp_path)
    with pytest.raises(UserError, match=r"holds no trained net; train with sweep\.save=last"):
        normzoo.load(tmp_path)


class Foreign:
    def __reduce__(self) -> Any:
        return (print, ("code ran",))


def changed(entry: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    def write(good: Path, bad: Path) -> None:
        content = torch.load(good, weights_only=True)
        entry(content)
        torch.save(content, bad)

    return write


LIBRARIES = "normzoo.models.libraries"


def options(saved: dict[str, Any]) -> dict[str, Any]:
    return saved["hyper_parameters"]["model"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda good, bad: bad.write_bytes(b""), "cannot be read"),
        (lambda good, bad: bad.write_bytes(good.read_bytes()[:-200]), "cannot be read"),
        (lambda good, bad: bad.write_bytes(pickle.dumps({})), "cannot be read"),
        (lambda good, bad: torch.save(Foreign(), bad), "it has print, which is not data"),
        (lambda good, bad: torch.save([1], bad), "it is a list"),
        (lambda good, bad: torch.save({"state_dict": {}}, bad), "not of a normzoo cell"),
        (changed(lambda saved: saved[NET].update(cell="of another")), "is of cell of another"),
        (changed(lambda saved: saved["state_dict"].popitem()), "do not fit PlainCNN"),
        (changed(lambda saved: saved["hyper_parameters"]["model"].update(_target_="builtins.print")), "not a class"),
        (changed(lambda saved: saved["hyper_parameters"]["model"].update(_target_="no.such")), "cannot build"),
        (changed(lambda saved: options(saved).update(_target_="normzoo.files.write_atomic")), "not a class"),
        (changed(lambda saved: options(saved).update(_target_=f"{LIBRARIES}.torch.hub.load")), "not a class"),
        (changed(lambda saved: options(saved).update(widths=({"_target_": "builtins.print"},))), "not a class"),
        (changed(lambda saved: options(saved).update(widths="${oc.env:HOME}")), "is not plain data"),
        (changed(lambda saved: saved["hyper_parameters"].pop("norm")), "norm.name is missing"),
    ],
)  # fmt: skip
def test_a_foreign_or_broken_file_is_refused_in_one_line(
    write: Callable[[Path, Path], Any], said: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "result.json").write_bytes((saved / "best" / "result.json").read_bytes())
    write(saved / "best" / MODEL, tmp_path / MODEL)
    with pytest.raises(UserError, match=said) as refused:
        normzoo.load(tmp_path)
    assert "\n" not in str(refused.value)
    assert capsys.readouterr().out == ""


def test_where_there_is_no_one_net_it_says_so(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds 2 cells with a trained net; give one of them, such as .*best"):
        normzoo.load(saved)
    with pytest.raises(UserError, match="does not exist"):
        normzoo.load(tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("save", ["last", "best"])
def test_two_processes_save_one_net(config: Compose, tmp_path: Path, save: str) -> None:
    cell = config("trainer.devices=2", f"sweep.save={save}")
    record = run_cell(cell, tmp_path)
    assert record is not None
    best = min(point["val_error_running"] for point in record.curve)
    expected = record.metrics["val_error_running"] if save == "last" else best
    assert error_of(normzoo.load(tmp_path), cell) == pytest.approx(expected)


def test_results_are_a_data_frame_of_settings_and_metrics(saved: Path, tmp_path: Path) -> None:
    frame = normzoo.results(saved).set_index("norm")
    record = normzoo.results.read_result(saved / "best")
    row = frame.loc["batch_norm"]
    assert (row.cell, row.status, row.seed, row["optimizer.base_lr"]) == (record.cell, "ok", 1, 2)
    assert row.val_error_running == record.metrics["val_error_running"]
    assert frame.val_error_running.dtype == float
    assert json.loads(frame.batch_size_per_device.to_json()) == {"batch_norm": 8, "batch_renorm": 8}
    with pytest.raises(UserError, match="found no results"):
        normzoo.results(tmp_path)


def test_curves_are_a_data_frame_with_a_row_per_epoch(saved: Path) -> None:
    frame = normzoo.curves(saved)
    record = normzoo.results.read_result(saved / "best")
    of_best = frame[frame.cell == record.cell]
    assert list(of_best.epoch) == [1, 2, 3]
    assert list(of_best.val_error_running) == [point["val_error_running"] for point in record.curve]
    assert len(frame) == 5
