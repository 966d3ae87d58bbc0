"""What a sweep does in a folder that has results already, and what it says before."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from normzoo.errors import UserError
from normzoo.results import CellResult, read_result, read_results, write_result
from normzoo.sweep import local_launcher as multirun
from normzoo.sweep.cell import Cell
from normzoo.sweep.cell_lock import CellLock
from normzoo.sweep.compose import Composition
from normzoo.training.cell import describe
from normzoo.training.config import parse

Cli = Callable[..., tuple[int, str, str]]
Sweep = Callable[..., tuple[int, str, str]]

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=1")  # as in conftest
FAILED = ("error", "killed", "oom", "timeout")


@pytest.fixture
def sweep(cli: Cli, tiny: tuple[str, ...]) -> Sweep:
    """Run a sweep of two seeds."""
    return lambda *overrides: cli("train", "-m", *tiny, *SHORT, "seed=0,1", "hydra.sweep.dir=s", *overrides)


def states(out: str) -> dict[str, str]:
    """What a dry run says of each cell, its expected time left out."""
    rows = [re.split(r"  +", line.strip()) for line in out.splitlines() if line.startswith(("seed=", "norm="))]
    return {row[0]: row[1] for row in rows}


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("retry", ["none", "failed", "all"])
def test_what_is_done_with_cells_that_have_a_record(sweep: Sweep, leave: Callable[..., Path], retry: str) -> None:
    statuses = ["ok", "diverged", "refused", *FAILED]
    for seed, status in enumerate(statuses):
        leave(status, f"seed={seed}")
    code, out, err = sweep("sweep.dry_run=true", f"sweep.retry={retry}", "seed=range(8)")
    assert code == 0, err
    failed = {status: f"failed before: {status}" if retry == "none" else "to run" for status in FAILED}
    expected = {"ok": "done", "diverged": "to run" if retry == "all" else "done", "refused": "to run", **failed}
    assert states(out) == {f"seed={s}": expected[status] for s, status in enumerate(statuses)} | {"seed=7": "to run"}
    assert ("4 failed before (sweep.retry=failed runs them again)" in out) == (retry == "none")


def test_without_resume_everything_runs(sweep: Sweep, leave: Callable[..., Path]) -> None:
    before = leave("ok", "seed=0"), leave("killed", "seed=1")
    contents = [path.read_bytes() for path in before]
    out = sweep("sweep.dry_run=true", "sweep.resume=false")[1]
    assert states(out) == {"seed=0": "to run", "seed=1": "to run"}
    assert [path.read_bytes() for path in before] == contents


def test_an_interrupted_sweep_ends_with_one_command(
    sweep: Sweep, leave: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(run: multirun._Run, *_: object) -> int:
        run.stop.draining = True
        return 2

    monkeypatch.setattr(multirun._Run, "through", interrupted)
    leave("error", "seed=0", reason="why")
    code, out, err = sweep("seed=range(3)")
    assert code == 130
    assert "error, 1 cell: why" in out  # the report is there
    commands = [line for line in (out + err).splitlines() if line.startswith("  normzoo train")]
    assert len(commands) == 1, out + err
    assert "2 cells are left" in err
    assert commands[0] in err
    assert "sweep.retry" not in commands[0]


def test_what_cannot_be_cleared_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.ckpt").mkdir()
    with pytest.raises(UserError, match=r"checkpoint\.ckpt in it is not a file.*hydra\.sweep\.dir"):
        Cell(Composition(b""), {}, tmp_path).lock(resume=False)
    (tmp_path / "checkpoint.ckpt").rmdir()
    assert CellLock.acquire(tmp_path) is not None


def test_failed_cells_run_again_by_the_command_that_is_printed(
    sweep: Sweep, cli: Cli, leave: Callable[..., Path], tmp_path: Path
) -> None:
    done, lost = leave("ok", "seed=0", metrics={"val_error_running": 5.0}), leave("killed", "seed=1", reason="why")
    contents = done.read_bytes()
    code, out, _ = sweep()
    assert code == 1  # the folder still holds a failure
    assert "0 to run" in out
    assert read_result(lost).reason == "why"
    (command,) = [line.strip() for line in out.splitlines() if line.startswith("  normzoo train")]
    words = shlex.split(command)
    assert words[:2] == ["normzoo", "train"]
    code, out, _ = cli(*words[1:])
    assert code == 0, out
    assert "1 to run" in out
    assert read_result(lost).status == "ok"
    assert done.read_bytes() == contents


@pytest.mark.parametrize("fault", ["half a file", "another cell's"])
def test_a_record_that_is_none_is_named_and_its_cell_run(sweep: Sweep, leave: Callable[..., Path], fault: str) -> None:
    bad, good = leave("ok", "seed=0"), leave("ok", "seed=1")
    bad.write_text(bad.read_text()[:100] if fault == "half a file" else good.read_text())
    code, out, _ = sweep("sweep.dry_run=true")
    assert code == 0
    assert re.search(rf"run again: seed=0: .*{bad.parent.name}/result\.json is", out), out
    assert states(out) == {"seed=0": "to run", "seed=1": "done"}


def test_a_record_of_a_later_version_is_kept_and_fails_the_sweep(sweep: Sweep, leave: Callable[..., Path]) -> None:
    later = leave("ok", "seed=0")
    later.write_text(later.read_text().replace('"schema": 1', '"schema": 2'))
    content = later.read_bytes()
    code, out, err = sweep()
    assert code == 1, out + err
    assert "1 to run" in out
    assert "has schema 2 and this normzoo reads schema 1: it is kept" in out
    assert later.read_bytes() == content


@pytest.mark.slow
def test_refused_cells_are_asked_again(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    command = ("train", "-m", *tiny, *SHORT, "norm=identity,instance_norm", "hydra.sweep.dir=s")
    assert cli(*command)[0] == 0
    (path,) = (tmp_path / "s" / result.cell for result in read_results(tmp_path / "s")[0] if result.status == "refused")
    before = stamps(path)
    cli(*command)
    assert stamps(path) == before  # the verdict is the same, and so is its record
    write_result(path, replace(read_result(path), reason="because of something that was mended"))
    assert "1 refused" in cli(*command)[1]
    assert "(8, 64, 1, 1)" in (read_result(path).reason or "")


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_writes_nothing(sweep: Sweep, leave: Callable[..., Path], tmp_path: Path) -> None:
    norms = "norm=identity,instance_norm"
    code, out, err = sweep(norms, "sweep.dry_run=true")
    assert code == 0, err
    assert list(tmp_path.iterdir()) == []
    assert states(out)["seed=0 norm=identity"] == "to run"
    assert re.search(r"^seed=1 norm=instance_norm +refused$", out, re.M), out
    assert re.search(r"^refused: seed=0 norm=instance_norm and 1 more: .*\(8, 64, 1, 1\)", out, re.M), out
    assert out.count("(8, 64, 1, 1)") == 1
    assert "4 cells: 2 to run" in out
    assert "expected time: unknown until a cell like these has run" in " ".join(out.split())

    half_done = leave("ok", "norm=identity", "seed=0")
    half_done.unlink()
    (half_done.parent / "checkpoint.ckpt").write_bytes(b"")
    leave("refused", "norm=instance_norm", "seed=0", reason="an old one")
    before = stamps(tmp_path)
    assert states(sweep(norms, "sweep.dry_run=true")[1])["seed=0 norm=identity"] == "continues from its checkpoint"
    assert stamps(tmp_path) == before


@pytest.mark.slow
def test_a_dry_run_tells_times_from_the_cells_that_have_run(sweep: Sweep, leave: Callable[..., Path]) -> None:
    # Other cells of the norm take 30 s for 300 + 12 batches; the same cell under another seed takes what it took.
    leave("ok", "norm=identity", "trainer.max_epochs=2", metrics={"steps": 12}, time={"wall_s": 30.0})
    leave("ok", "norm=group_norm", "seed=5", metrics={"steps": 1}, time={"wall_s": 50.0})
    _, out, _ = sweep("norm=identity,group_norm", "sweep.dry_run=true", "hydra.launcher.n_jobs=1")
    assert len(re.findall(r"^seed=[01] norm=identity +to run +0:30$", out, re.M)) == 2, out
    assert len(re.findall(r"^seed=[01] norm=group_norm +to run +0:50$", out, re.M)) == 2, out
    assert "expected time: 2:40" in out


def test_a_dry_run_in_a_new_folder_tells_times_from_the_sweeps_beside_it(
    sweep: Sweep, leave: Callable[..., Path], config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    here = describe(parse(config()))["device"]
    ran: dict[str, Any] = {"metrics": {"steps": 12}, "time": {"wall_s": 31.2}, "device": here}
    leave("ok", "norm=identity", **ran)
    leave("ok", "norm=group_norm", "model=mlp", **{**ran, "device": {**here, "name": "another machine"}})
    for number, foreign in enumerate([{"lr": 1}, {"trainer": {}}, {"trainer": {"devices": 1}, "norm": "batch"}]):
        write_result(tmp_path / "other" / str(number), CellResult(cell="?", status="ok", config=foreign, **ran))
    planned = ("norm=identity,layer_norm", "sweep.dry_run=true", "hydra.sweep.dir=new", "hydra.launcher.n_jobs=1")
    out = sweep(*planned, "model=mlp,plain_cnn")[1]  # another machine's times tell nothing of this one
    assert len(re.findall(r"^seed=[01] norm=\w+ model=plain_cnn +to run +0:31$", out, re.M)) == 4, out
    said = " ".join(out.split())
    assert "expected time: 2:05, and that of 4 cells unlike any that has run, by other sweeps in" in said


@pytest.mark.slow
def test_what_a_killed_sweep_left_of_a_finished_cell_is_cleared(sweep: Sweep, leave: Callable[..., Path]) -> None:
    folders = [leave("ok", f"seed={seed}").parent for seed in (0, 1)]
    for folder in folders:
        (folder / ".ranks").mkdir()
        for name in (".claim", "checkpoint.ckpt", "curve.json", ".result.json.1.2.tmp"):
            (folder / name).touch()
    ending = CellLock.acquire(folders[1])  # another sweep is about to
    assert ending is not None
    code, _, err = sweep()
    assert code == 0, err
    assert [path.name for path in folders[0].iterdir()] == ["result.json"]
    assert len(list(folders[1].iterdir())) == 6
    ending.release()
