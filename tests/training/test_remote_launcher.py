"""Sweeps on other engines than the local one: each really runs here where it can."""

import functools
import importlib.util
import json
import math
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from omegaconf import OmegaConf

from normzoo.commands import train as command
from normzoo.results import read_result, read_results
from normzoo.sweep import fork_server
from normzoo.sweep.cell import NEVER_STARTED, Cell
from normzoo.sweep.compose import Composition
from normzoo.sweep.live_table import progress_of
from normzoo.sweep.progress import Watch
from normzoo.sweep.worker import InOwnProcess, cells_per_gpu
from normzoo.training.config import parse
from tests.environments import RAY, RAY_OPTIONS
from tests.training.dying import die

Cli = Callable[..., tuple[int, str, str]]

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "hydra.sweep.dir=s")
LIBRARIES = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}


def needs(engine: str) -> None:
    for name in (LIBRARIES[engine], f"hydra_plugins.hydra_{PLUGINS[engine]}_launcher"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@pytest.fixture
def _no_cluster_left() -> Iterator[None]:
    """A Ray that runs on would print what its nodes say, at any time, into the output of other tests."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_cluster_left")
@pytest.mark.parametrize("engine", [pytest.param("joblib", marks=pytest.mark.slow), "submitit_local", "ray"])
def test_cells_run_die_and_are_not_run_twice(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(engine)
    here = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    for name, value in RAY.items():
        monkeypatch.setenv(name, value)
    command = (
        "train", "-m", *tiny, *SHORT, f"hydra/launcher={engine}", *(RAY_OPTIONS if engine == "ray" else ()),
        "model._target_=normzoo.models.plain_cnn.PlainCNN,tests.training.dying.Dying", "norm=identity,instance_norm",
    )  # fmt: skip
    code, out, err = cli(*command)
    assert "4 cells: 2 to run" in out, out + err
    results, unreadable = read_results(tmp_path / "s")
    assert (len(results), unreadable) == (4, []), out + err
    by_kind = {(r.config["model"]["_target_"].rpartition(".")[2], r.config["norm"]["name"]): r for r in results}
    assert by_kind["PlainCNN", "identity"].status == "ok", out + err
    dead = by_kind["Dying", "identity"]
    assert (dead.status, "exit code 7" in (dead.reason or "")) == ("error", True), dead.reason
    assert by_kind["PlainCNN", "instance_norm"].status == "refused"
    assert code == 1
    assert (tmp_path / "s" / "summary.md").exists()

    code, out, err = cli(*command)
    assert "0 to run" in out
    assert "1 done before, 1 failed before" in out


class LosesItsNode:
    """An engine that begins the first cell, and then loses the node with all cells."""

    def __init__(self, **_: object) -> None: ...

    def setup(self, **_: object) -> None: ...

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> None:
        first = dict(override.split("=", 1) for override in job_overrides[0])
        folder = Path(first["hydra.sweep.dir"], first["hydra.sweep.subdir"])
        folder.mkdir()
        (folder / "cell.log").touch()
        raise RuntimeError("the node was lost")


def test_cells_that_a_lost_worker_never_began_are_recorded(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normzoo.sweep.remote_launcher._engine_class", lambda launcher: LosesItsNode)
    command = ("train", "-m", *tiny, *SHORT, "hydra/launcher=joblib", "seed=0,1,2")
    code, out, err = cli(*command)
    assert code == 1, out + err
    results, _ = read_results(tmp_path / "s")
    reasons = {result.seed: result.reason or "" for result in results if result.status == "killed"}
    assert sorted(reasons) == [0, 1, 2]
    assert reasons[0].startswith("its worker has ended without its result")
    for seed in (1, 2):
        assert reasons[seed].startswith("its worker never began it")
        assert "the node was lost" in reasons[seed]
        assert "sweep.retry=failed" in reasons[seed]
    assert "3 failed before" in cli(*command, "sweep.dry_run=true")[1]
    assert "3 to run" in cli(*command, "sweep.dry_run=true", "sweep.retry=failed")[1]


@pytest.mark.slow
def test_a_record_of_an_earlier_run_outlives_a_run_that_never_began_the_cell(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", "-m", *tiny, *SHORT)
    assert cli(*command, "seed=1")[0] == 0
    (log,) = tmp_path.glob("s/*/cell.log")
    os.utime(log, (0, 0))
    monkeypatch.setattr("normzoo.sweep.remote_launcher._engine_class", lambda launcher: LosesItsNode)
    cli(*command, "hydra/launcher=joblib", "sweep.resume=false", "seed=0,1")
    assert {r.seed: r.status for r in read_results(tmp_path / "s")[0]} == {0: "killed", 1: "ok"}


class Asked:
    """An engine that runs nothing, and notes what it was told to run and with which options."""

    told: ClassVar[list[tuple[object, list[str]]]] = []

    def __init__(self, **options: object) -> None:
        self.options = options

    def setup(self, **_: object) -> None: ...

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> None:
        for overrides in job_overrides:
            self.told.append((self.options, overrides))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, list[str]]]:
    """Stands for Ray and its launcher: two nodes, of two and of four cores; gives what is handed to it."""
    started: list[dict[str, object]] = []
    ray = ModuleType("ray")
    vars(ray).update(
        is_initialized=lambda: bool(started),
        init=lambda **options: started.append(options),
        nodes=lambda: [
            {"Alive": True, "Resources": {"CPU": 2.0}},
            {"Alive": True, "Resources": {"CPU": 4.0, "memory": 1e9}},
            {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
        ],
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("normzoo.sweep.remote_launcher._engine_class", lambda launcher: Asked)
    monkeypatch.setattr(Asked, "told", [])
    return Asked.told


def test_ray_is_not_asked_for_more_cores_than_a_node_has(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, cluster: list[tuple[object, list[str]]]
) -> None:
    command = ("train", "-m", *tiny, *SHORT, "hydra/launcher=ray", "trainer.threads=4,5,6", "seed=0,1")
    _, out, err = cli(*command, "sweep.dry_run=true")
    assert "refused: trainer.threads=5 seed=0 and 1 more: it asks Ray for 5 cores on one node" in out, out + err
    assert "6 cells: 2 to run" in out
    assert (cluster, list(tmp_path.iterdir())) == ([], [])
    _, out, err = cli(*command)
    assert {word for _, overrides in cluster for word in overrides if "threads" in word} == {"trainer.threads=4"}
    assert "refused: trainer.threads=5 seed=0 and 1 more: it asks Ray for 5 cores on one node" in out, out + err
    assert "6 cells: 2 to run" in out
    refused = [result for result in read_results(tmp_path / "s")[0] if result.status == "refused"]
    assert {result.config["trainer"]["threads"] for result in refused} == {5, 6}
    assert all("nodes have 2 cores or 4 cores;" in (result.reason or "") for result in refused)


def test_a_sweep_of_cells_that_are_all_too_large_for_ray_ends(
    cli: Cli, tiny: tuple[str, ...], cluster: list[tuple[object, list[str]]]
) -> None:
    code, _, err = cli("train", "-m", *tiny, *SHORT, "hydra/launcher=ray", "trainer.threads=5", "seed=0,1")
    assert (code, cluster) == (2, [])
    assert "none of the 2 cells can run" in err


def test_a_cell_waits_for_a_node_that_may_join_the_cluster(
    cli: Cli, tiny: tuple[str, ...], cluster: list[tuple[object, list[str]]]
) -> None:
    _, out, _ = cli(
        "train", "-m", *tiny, *SHORT, "hydra/launcher=ray", "trainer.threads=5", "seed=0,1",
        "hydra.launcher.ray.init.address=auto",
    )  # fmt: skip
    assert len(cluster) == 2
    assert "waits until the Ray cluster has such a node: seed=0: it asks Ray for 5 cores" in out


def test_processes_share_the_cores_that_the_user_asks_ray_for(
    cli: Cli, tiny: tuple[str, ...], cluster: list[tuple[object, list[str]]]
) -> None:
    cli(
        "train", "-m", *tiny, *SHORT, "hydra/launcher=ray", "trainer.threads=5", "seed=0,1",
        "+hydra.launcher.ray.remote.num_cpus=2",
    )  # fmt: skip
    assert len(cluster) == 2


def test_an_engine_ends_the_server_that_serves_nobody(
    cli: Cli, tiny: tuple[str, ...], cluster: list[tuple[object, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which began because the engine was chosen in a file, and not by the command."""
    happened: list[tuple[str, int]] = []
    monkeypatch.setattr(command, "wants_server", lambda arguments: True)
    monkeypatch.setattr(fork_server, "_start_server", lambda *_: happened.append(("started", len(cluster))))
    monkeypatch.setattr(fork_server, "stop_server", lambda: happened.append(("stopped", len(cluster))))
    cli("train", "-m", *tiny, *SHORT, "hydra/launcher=ray", "seed=0")
    assert happened == [("started", 0), ("stopped", 0), ("stopped", 1)]


class Late(BasicLauncher):
    """An engine with a queue, in which the cells wait until another sweep has run them."""

    done: Callable[..., Path]

    def __init__(self, **_: object) -> None: ...

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        for overrides in job_overrides:
            type(self).done(next(override for override in overrides if override.startswith("seed=")))
        return super().launch(job_overrides, initial_job_idx)


def test_a_queued_cell_that_another_sweep_has_run_is_not_run_again(
    cli: Cli,
    config: Callable[..., dict[str, Any]],
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[..., Path],
) -> None:
    config(*SHORT[:2], "seed=1")  # composed now: within a sweep of this process Hydra cannot start again
    monkeypatch.setattr("normzoo.sweep.remote_launcher._engine_class", lambda launcher: Late)
    monkeypatch.setattr(Late, "done", staticmethod(functools.partial(leave, "ok")), raising=False)
    first = leave("killed", "seed=0")
    code, out, err = cli("train", "-m", *tiny, *SHORT, "hydra/launcher=joblib", "seed=0,1", "sweep.retry=failed")
    assert "2 cells: 2 to run" in out
    assert code == 0, out + err
    assert read_result(first).status == "ok"
    assert not list(tmp_path.glob("s/*/cell.log"))  # of a process of the cell


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "status"), [("600", "ok"), ("0.01", "timeout")])
def test_a_queued_cell_runs_although_another_sweep_has_given_it_up(
    cli: Cli,
    config: Callable[..., dict[str, Any]],
    tiny: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[..., Path],
    limit: str,
    status: str,
) -> None:
    config(*SHORT[:2], "seed=0")
    monkeypatch.setattr("normzoo.sweep.remote_launcher._engine_class", lambda launcher: Late)
    given_up: list[Path] = []

    def give_up(seed: str) -> None:
        given_up.append(leave("killed", seed, reason=f"{NEVER_STARTED}; the engine says: no"))

    monkeypatch.setattr(Late, "done", staticmethod(give_up), raising=False)
    _, out, err = cli("train", "-m", *tiny, *SHORT, "hydra/launcher=joblib", "seed=0", f"sweep.time_limit={limit}")
    assert read_result(given_up[0]).status == status, out + err


def test_the_watch_waits_for_a_cell_that_another_sweep_has_given_up(
    config: Callable[..., dict[str, Any]], leave: Callable[..., Path], tmp_path: Path
) -> None:
    cells = []
    for seed in ("seed=0", "seed=1"):
        cell = parse(config(*SHORT[:2], seed))
        cells.append(Cell(Composition(b""), cell, tmp_path / "s" / cell.identity, label=seed))
        leave("killed", seed, reason=f"{NEVER_STARTED}; the engine says: no")
    with Watch(cells, progress_of(cells, 2), every_s=0.01) as watch:
        time.sleep(0.2)
        assert not watch.progress.done
        leave("ok", "seed=0")
    assert watch.progress.done == {0, 1}
    assert [label for label, _ in watch.progress.failures] == ["seed=1"]


@pytest.mark.parametrize("continued", [True, False])
def test_the_record_of_a_dead_cell_has_the_curve_of_this_attempt_alone(
    config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, continued: bool
) -> None:
    runtime, overrides = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(task=[])
    told = SimpleNamespace(runtime=runtime, overrides=overrides, launcher=OmegaConf.create())
    hydra = SimpleNamespace(get=lambda: told)
    for room in ("worker", "hydra_task"):
        monkeypatch.setattr(f"normzoo.sweep.{room}.HydraConfig", hydra)
    curve = [{"epoch": 1, "val_error_running": 50.0}]
    (tmp_path / "curve.json").write_text(json.dumps(curve))
    if continued:
        (tmp_path / "checkpoint.ckpt").touch()
    assert InOwnProcess(die)(OmegaConf.create(config())) == math.inf  # type: ignore[arg-type]
    record = read_result(tmp_path)
    assert (record.status, record.curve) == ("error", curve if continued else [])


@pytest.mark.parametrize(("options", "cells"), [
    ({}, 1), ({"ray": {"remote": {}}}, 1), ({"ray": {"remote": {"num_gpus": 2}}}, 1),
    ({"ray": {"remote": {"num_gpus": 0}}}, 1), ({"ray": {"remote": {"num_gpus": 0.125}}}, 8),
    ({"ray": {"remote": {"num_gpus": 0.3333}}}, 3), ({"ray": {"remote": {"num_gpus": 0.4}}}, 2),
])  # fmt: skip
def test_a_worker_knows_how_many_cells_share_the_gpu_of_which_ray_lends_a_part(
    options: dict[str, Any], cells: int
) -> None:
    assert cells_per_gpu(OmegaConf.create(options)) == cells


# What Slurm's commands do, as far as submitit asks: jobs run at once, on this machine, from a copy of the script, which
# submitit moves meanwhile.
FAKE_SLURM = {
    "sbatch": """#!/bin/sh
cp "$1" "$NORMZOO_SBATCH"
export SLURM_JOB_ID=4242 SLURM_ARRAY_JOB_ID=4242 SLURM_NTASKS=1 SLURM_NODELIST=here SLURM_NNODES=1
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=here
(for task in 0 1; do SLURM_ARRAY_TASK_ID=$task sh "$NORMZOO_SBATCH"; done; touch "$NORMZOO_SBATCH.ended") \\
  > "$NORMZOO_SBATCH.out" 2>&1 &
echo "Submitted batch job 4242"
""",
    "srun": """#!/bin/sh
while [ "${1#--}" != "$1" ] || [ "$1" = -o ]; do case "$1" in --output|--error|-o) shift 2;; *) shift;; esac; done
exec "$@"
""",
    "sacct": """#!/bin/sh
state=RUNNING
if [ -e "$NORMZOO_SBATCH.ended" ]; then state=COMPLETED; fi
printf 'JobID|State|NodeList\\n4242_0|%s|here\\n4242_1|%s|here\\n' $state $state
""",
    "scancel": "#!/bin/sh\n",
}


@pytest.mark.slow
def test_slurm_is_asked_for_what_the_cells_need(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("submitit_slurm")
    commands = tmp_path / "slurm"
    commands.mkdir()
    for name, script in FAKE_SLURM.items():
        (commands / name).write_text(script)
        (commands / name).chmod((commands / name).stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", os.pathsep.join([str(commands), os.environ["PATH"]]))
    monkeypatch.setenv("NORMZOO_SBATCH", str(tmp_path / "sbatch.sh"))
    _, out, err = cli(
        "train", "-m", *tiny, *SHORT, "hydra/launcher=submitit_slurm", "seed=0,1",
        "trainer.threads=2", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90",
        "+hydra.launcher.additional_parameters={mail-type: END}",
    )  # fmt: skip
    asked = (tmp_path / "sbatch.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.+)$", asked, re.M))
    assert options["partition"] == "gpu"
    assert options["time"] == "90"
    assert options["cpus-per-task"] == "2"
    assert options["array"] == "0-1%2"
    assert options["mail-type"] == "END"
    assert "gpus-per-node" not in options
    results, _ = read_results(tmp_path / "s")
    assert [result.status for result in results] == ["ok", "ok"], out + err


def test_gpus_are_asked_for_where_the_trainer_says_so(config: Callable[..., dict[str, Any]]) -> None:
    from hydra_plugins.normzoo_sweep import RayLauncher, SubmititSlurmLauncher

    from normzoo.sweep.remote_launcher import fitted, needed_by
    from normzoo.training.config import Resources

    cell = parse(config("trainer=gpu", "trainer.devices=4", "trainer.threads=2", "+data.num_workers=3"))
    slurm = SubmititSlurmLauncher(cpus_per_task=None, gpus_per_node=None)
    needed = needed_by(cell, slurm)
    assert needed == Resources(gpus=4, cores=20)
    assert fitted("slurm", slurm.options, needed, []) == {"cpus_per_task": 20, "gpus_per_node": 4}
    assert needed_by(cell.changed(trainer={**cell.plain["trainer"], "accelerator": "auto"}), slurm).gpus == 0
    ray = RayLauncher(ray={"init": {}, "remote": {"max_calls": 1, "num_cpus": 1}})
    remote = fitted("ray", ray.options, needed, [])["ray"]["remote"]
    assert remote == {"max_calls": 1, "num_cpus": 1, "num_gpus": 4}


@pytest.mark.parametrize("engine", LIBRARIES)
def test_an_engine_that_is_not_installed_names_what_to_install(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, LIBRARIES[engine], None)
    code, _, err = cli("train", "-m", *tiny, *SHORT, f"hydra/launcher={engine}", "seed=0,1")
    assert code == 2
    extra = {"submitit_local": "slurm", "submitit_slurm": "slurm"}.get(engine, engine)
    assert re.search(rf"error: hydra/launcher={engine} needs .*: pip install 'normzoo\[{extra}\]'", err), err
    assert not (tmp_path / "s").exists()
