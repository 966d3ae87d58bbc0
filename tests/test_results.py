"""The record of a cell: its identity, what is written, and what is read back."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from normzoo.errors import UserError
from normzoo.identity import cell_id
from normzoo.results import (
    FILE_NAME,
    SCHEMA,
    STATUSES,
    CellResult,
    read_result,
    read_results,
    write_atomic,
    write_result,
)


@pytest.fixture
def result() -> CellResult:
    """A generated record with every field set."""
    return CellResult(
        cell="0123456789ab",
        status="ok",
        reason=None,
        config={"seed": 1, "norm": {"name": "group_norm", "num_groups": 8}, "model": {"widths": [8, 16]}},
        seed=1,
        world_size=2,
        metrics={"val_error_running": 8.25, "steps": 100},
        curve=[{"epoch": 1, "val_error_running": 9.0}],
        values_per_statistic={"stages.0.norm": 64},
        normalization_batch=1,
        time={"wall_s": 1.5, "started": "2026-01-01T00:00:00+00:00"},
        device={"name": "generated", "cores": 2},
        versions={"torch": "0"},
    )


def test_what_is_written_is_read_back(result: CellResult, tmp_path: Path) -> None:
    path = write_result(tmp_path / "not" / "there" / "yet", result)
    assert path.name == FILE_NAME
    assert read_result(path) == read_result(path.parent) == result
    assert read_result(path).folder == path.parent
    record = json.loads(path.read_text())
    assert record["schema"] == SCHEMA
    assert "folder" not in record


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_survives(status: str, tmp_path: Path) -> None:
    write_result(tmp_path, CellResult(cell="c", status=status, config={}, reason="why\nnot"))
    again = read_result(tmp_path)
    assert (again.status, again.reason) == (status, "why\nnot")


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match="'fine' is none of ok, diverged"):
        CellResult(cell="c", status="fine", config={})


def test_numbers_that_are_not_finite_become_null_and_the_file_stays_strict_json(tmp_path: Path) -> None:
    result = CellResult(
        cell="c",
        status="diverged",
        config={"clip": math.inf},
        metrics={"val_loss": math.nan, "lr": 0.1},
        curve=[{"train_loss": -math.inf}],
    )
    path = write_result(tmp_path, result)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the file"))
    again = read_result(path)
    assert again.metrics == {"val_loss": None, "lr": 0.1}
    assert again.curve == [{"train_loss": None}]
    assert again.config == {"clip": "inf"}
    assert cell_id(again.config) == cell_id(result.config)


def test_scalars_of_numpy_and_torch_are_numbers(tmp_path: Path) -> None:
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    metrics: Any = {"a": numpy.float32(1.5), "b": torch.tensor(2.5), "c": numpy.int64(3), "d": torch.tensor(math.nan)}
    write_result(
        tmp_path, CellResult(cell="c", status="ok", config={"path": tmp_path, "pair": (1, 2)}, metrics=metrics)
    )
    again = read_result(tmp_path)
    assert again.metrics == {"a": 1.5, "b": 2.5, "c": 3, "d": None}
    assert again.config == {"path": str(tmp_path), "pair": [1, 2]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config", {"model": {"build": object()}}),
        ("metrics", {"note": "text"}),
        ("metrics", {"a": [1]}),
        ("seed", "0"),
        ("seed", True),
    ],
)
def test_what_is_no_record_is_not_written(field: str, value: Any, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"cell": "c", "status": "ok", "config": {}, field: value}
    with pytest.raises(TypeError, match=field):
        write_result(tmp_path, CellResult(**fields))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_record(
    fails: str, result: CellResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_result(tmp_path, result)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, fails, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path, CellResult(cell="other", status="error", config={}))
    monkeypatch.undo()
    assert read_result(tmp_path) == result
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_half_written_draft_is_no_result(result: CellResult, tmp_path: Path) -> None:
    write_result(tmp_path, result)
    (tmp_path / f".{FILE_NAME}.1.2.tmp").write_text('{"schema"')
    assert read_results(tmp_path) == ([result], [])


def test_a_folder_that_cannot_be_written_is_said(result: CellResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file.*choose a folder"):
        write_result(tmp_path / "file" / "cell", result)
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_result(tmp_path, result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", FILE_NAME]


def test_write_atomic_takes_text_and_bytes(tmp_path: Path) -> None:
    assert write_atomic(tmp_path / "a", "é").read_bytes() == "é".encode()
    assert write_atomic(tmp_path / "a", b"\x00").read_bytes() == b"\x00"


BAD = {
    "empty": ("", "corrupt"),
    "cut": ('{"schema": 1, "cell": "c", "sta', "corrupt"),
    "binary": ("\x00\x01", "corrupt"),
    "nan": (
        '{"schema": 1, "cell": "c", "status": "ok", "config": {}, "metrics": {"a": NaN}}',
        "NaN is not strict JSON",
    ),
    "deep": ("[" * 100_000, "corrupt"),
    "foreign list": ("[1, 2]", "not a normzoo result"),
    "foreign object": ('{"accuracy": 0.9}', "not a normzoo result"),
    "later": (json.dumps({"schema": 99, "cell": "c"}), "schema 99"),
    "no status": (json.dumps({"schema": 1, "cell": "c", "config": {}}), "`status` is None"),
    "unknown status": (json.dumps({"schema": 1, "cell": "c", "status": "fine", "config": {}}), "'fine' is none of"),
    "text as metric": (
        json.dumps({"schema": 1, "cell": "c", "status": "ok", "config": {}, "metrics": {"a": "b"}}),
        "`metrics.a`",
    ),
    "number as curve": (json.dumps({"schema": 1, "cell": "c", "status": "ok", "config": {}, "curve": [1]}), "`curve`"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_fault(name: str, tmp_path: Path) -> None:
    text, fault = BAD[name]
    path = tmp_path / FILE_NAME
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_result(path)
    assert str(path) in str(caught.value)
    assert fault in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*result\.json: No such file"):
        read_result(tmp_path)


def test_bad_files_never_hide_the_good_ones(result: CellResult, tmp_path: Path) -> None:
    for i, (text, _) in enumerate(BAD.values()):
        (tmp_path / f"bad{i}").mkdir()
        (tmp_path / f"bad{i}" / FILE_NAME).write_text(text)
    write_result(tmp_path / "a" / "deeper" / "cell", result)
    write_result(tmp_path / "z", result)
    write_result(tmp_path / "z" / ".hydra", result)
    results, messages = read_results(tmp_path)
    assert results == [result, result]
    assert [str(r.folder) for r in results] == [str(tmp_path / "a/deeper/cell"), str(tmp_path / "z")]
    assert len(messages) == len(BAD)
    assert all(f"bad{i}/" in "\n".join(messages) for i in range(len(BAD)))


def test_a_root_that_is_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_results(tmp_path / "nowhere")
    assert read_results(tmp_path) == ([], [])


CONFIG: dict[str, Any] = {
    "seed": 0,
    "norm": {"name": "batch_norm", "eps": 1e-5},
    "model": {"widths": [8, 16]},
    "optimizer": {"base_lr": 1.0},
    "trainer": {"devices": 1, "enable_progress_bar": True},
    "data": {"root": "here", "num_workers": 0, "download": False},
}


def test_an_identity_is_twelve_hex_digits() -> None:
    name = cell_id(CONFIG)
    assert len(name) == 12
    assert int(name, 16) >= 0


@pytest.mark.parametrize(
    "change",
    [
        {"hydra": {"run": {"dir": "elsewhere"}}},
        {"logger": {"name": "csv"}},
        {"paths": {"out": "elsewhere"}},
        {"experiment": "small_batch"},
        {"trainer": {"devices": 1, "enable_progress_bar": False}},
        {"trainer": {"enable_progress_bar": True, "devices": 1.0}},
        {"optimizer": {"base_lr": 1}},
        {"data": {"root": "here", "num_workers": 8, "download": True}},
        {"norm": {"eps": 1e-5, "name": "batch_norm"}},
        {"model": {"widths": (8, 16)}},
    ],
)
def test_what_decides_nothing_leaves_the_identity(change: dict[str, Any]) -> None:
    assert cell_id({**CONFIG, **change}) == cell_id(CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"norm": {"name": "batch_norm", "eps": 1e-3}},
        {"model": {"widths": [16, 8]}},
        {"trainer": {"devices": 2, "enable_progress_bar": True}},
        {"optimizer": {"base_lr": None}},
        {"data": {"root": "there", "num_workers": 0, "download": False}},
        {"evaluation": {"population_samples": 4}},
    ],
)
def test_what_decides_changes_the_identity(change: dict[str, Any]) -> None:
    assert cell_id({**CONFIG, **change}) != cell_id(CONFIG)


def test_one_batch_and_all_batches_are_different_cells() -> None:
    one, whole = ({"trainer": {"limit_val_batches": limit}} for limit in (1, 1.0))
    assert cell_id(one) != cell_id(whole)


def test_an_identity_of_more_than_plain_data_is_refused() -> None:
    with pytest.raises(TypeError, match=r"config\.model\.build is a type"):
        cell_id({"model": {"build": dict}})


def test_an_identity_outlives_versions() -> None:
    # A change of this value means that no sweep on disk can be resumed: only ever on purpose.
    assert cell_id({"seed": 0, "norm": {"name": "batch_norm"}}) == "018d6e936637"


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + bytes(50), b"\x93NUMPY", b"text"])
def test_a_spoilt_recording_is_named(content: bytes, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    from normzoo.recording import FILE_NAME as RECORDING
    from normzoo.recording import read_recording, write_recording

    whole = write_recording(tmp_path, {"a": np.arange(1000)}).read_bytes()
    for spoilt in (content, whole[:-30], whole[:80] + bytes(20) + whole[100:]):
        (tmp_path / RECORDING).write_bytes(spoilt)
        with pytest.raises(UserError, match=r"recording\.npz is corrupt"):
            read_recording(tmp_path)
