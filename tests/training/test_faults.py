"""A cell whose folder or files are not what they should be: it fails, and the others are trained."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from PIL import Image

from normzoo.identity import cell_id
from normzoo.results import read_result, read_results
from normzoo.sweep.cell_lock import FILES
from normzoo.training.callbacks import CURVE, curve_so_far, error_so_far

Cli = Callable[..., tuple[int, str, str]]
Compose = Callable[..., dict[str, Any]]
SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=1")


class InHere(BasicLauncher):
    """An engine that runs its cells one after the other in this process."""

    def __init__(self, **_: object) -> None: ...


def in_the_way(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("in the way")
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        (path / "below").mkdir(parents=True)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["normzoo", "joblib"])
def test_what_is_in_the_way_of_a_cells_files_is_its_failure_alone(
    cli: Cli, config: Compose, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr("normzoo.sweep.remote_launcher._engine_class", lambda launcher: InHere)
    faults = [("", "file"), *((name, kind) for name in FILES for kind in ("FIFO", "directory"))]
    for seed, (name, kind) in enumerate(faults, start=1):
        in_the_way(tmp_path / "s" / cell_id(config(*SHORT, f"seed={seed}")) / name, kind)
    code, out, err = cli(
        "train", "-m", *tiny, *SHORT, f"seed=range({len(faults) + 1})", "hydra.sweep.dir=s", f"hydra/launcher={engine}"
    )
    assert "Traceback" not in out + err
    assert code == 1, out + err
    assert read_result(tmp_path / "s" / cell_id(config(*SHORT, "seed=0"))).status == "ok", out + err
    failed = {result.seed: result for result in read_results(tmp_path / "s")[0] if result.status == "error"}
    for seed, (name, _) in enumerate(faults, start=1):
        if name not in ("", "result.json"):  # without them there can be no record
            assert f"{name} in it is not a file" in (failed[seed].reason or "")
        assert f"seed={seed}  error: " in out or f"seed={seed}: error: " in out, out


@pytest.mark.slow
@pytest.mark.parametrize("many", [True, False])
def test_relative_paths_are_those_of_where_the_command_was_typed(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, many: bool
) -> None:
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    own = [word for word in tiny if not word.startswith("data")]
    where = ["-m", "hydra.sweep.dir=s"] if many else ["hydra.run.dir=s/one"]
    code, out, err = cli(
        "train", *where, *own, *SHORT, "data=image_folder", "data.root=photos", "data.image_size=8",
        "batch_size_per_device=4", "data.num_workers=0", "hydra.job.chdir=true",
    )  # fmt: skip
    assert code == 0, out + err
    assert [result.status for result in read_results(tmp_path / "s")[0]] == ["ok"], out + err
    code, out, err = cli("train", *where, *own, *SHORT, "data=image_folder", "data.root=none", "hydra.job.chdir=true")
    assert code == 2, out + err


@pytest.mark.slow
def test_a_sweep_of_cells_that_leave_no_record_fails(
    cli: Cli, config: Compose, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    in_the_way(tmp_path / "s" / cell_id(config(*SHORT, "seed=1")), "file")
    in_the_way(tmp_path / "s" / cell_id(config(*SHORT, "norm=instance_norm", "seed=0")), "file")  # which is refused
    code, out, err = cli("train", "-m", *tiny, *SHORT, "hydra.sweep.dir=s", "norm=identity,instance_norm", "seed=0")
    assert (code, "no record of norm=instance_norm" in out) == (0, True), out + err
    code, out, err = cli("train", "-m", *tiny, *SHORT, "hydra.sweep.dir=s", "seed=1")
    assert (code, "cannot write into" in out) == (1, True), out + err
    assert (tmp_path / "s" / "multirun.yaml").exists()


@pytest.mark.parametrize(
    "content", ["[1, 2]", "{", "[" * 100_000, '[{"val_error_running": null}]', '[{"epoch": "x"}]', "\0", "7"]
)
def test_the_sweep_reads_any_curve(tmp_path: Path, content: str) -> None:
    (tmp_path / CURVE).write_text(content)
    assert all(isinstance(point, dict) for point in curve_so_far(tmp_path))
    assert error_so_far(tmp_path) == "-"
