"""What a sweep on this machine leaves behind, also when a cell dies or the sweep is run again."""

import re
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from normzoo.results import read_result, read_results
from normzoo.training.config import parse

Cli = Callable[..., tuple[int, str, str]]


def test_a_sweep_refuses_runs_reports_and_does_not_repeat(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    command = (
        "train", "-m", *tiny, "norm=batch_norm,instance_norm", "seed=0,1", "trainer.max_epochs=1", "hydra.sweep.dir=s"
    )  # fmt: skip
    code, out, err = cli(*command)
    assert code == 0, err
    results, unreadable = read_results(tmp_path / "s")
    assert not unreadable
    assert sorted(result.status for result in results) == ["ok", "ok", "refused", "refused"]
    assert "4 cells: 2 to run" in out
    assert "refused: norm=instance_norm" in out
    assert out.index("refused: norm=instance_norm") < out.index("cell 1/2")
    assert "cell 2/2  norm=batch_norm seed=" in out
    assert all((tmp_path / "s" / result.cell / "cell.log").exists() for result in results if result.status == "ok")
    for name in ("results.csv", "summary.md", "errors.png", "errors.svg"):
        assert (tmp_path / "s" / name).stat().st_size > 0
    before = {result.cell: result.time for result in results}

    code, out, err = cli(*command)
    assert code == 0, err
    assert "0 to run" in out
    assert {result.cell: result.time for result in read_results(tmp_path / "s")[0] if result.status == "ok"} == {
        cell: time for cell, time in before.items() if "wall_s" in time
    }

    code, out, _ = cli("report", "s")
    assert code == 0
    assert "batch_norm" in out


def test_a_cell_that_dies_does_not_end_the_sweep(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli(
        "train", "-m", *tiny, "model._target_=normzoo.models.plain_cnn.PlainCNN,tests.training.dying.Dying",
        "hydra.sweep.dir=s", "hydra.launcher.n_jobs=1",
    )  # fmt: skip
    results = {result.config["model"]["_target_"]: result for result in read_results(tmp_path / "s")[0]}
    assert results["normzoo.models.plain_cnn.PlainCNN"].status == "ok", out + err
    dead = results["tests.training.dying.Dying"]
    assert dead.status == "error"
    assert "exit code 7" in (dead.reason or "")
    assert "exit code 7" in out
    assert code == 1
    assert "exit code 7" in (tmp_path / "s" / "summary.md").read_text()


@pytest.mark.slow
def test_every_registered_norm_by_glob(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    import normzoo

    code, out, err = cli(
        "train", "-m", *tiny, "norm=glob(*)", "trainer.max_epochs=1", "trainer.limit_train_batches=2",
        "hydra.sweep.dir=s",
    )  # fmt: skip
    assert code == 0, out + err
    results, _ = read_results(tmp_path / "s")
    assert {result.config["norm"]["name"] for result in results} == set(normzoo.list_norms())
    assert {result.status for result in results} <= {"ok", "refused"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of generated images in ImageNet's layout."""
    from PIL import Image

    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (40, 40), (60 * number, 200 if label == "a" else 20, 0)).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "norms", "base_lr", "size"),
    [("imagenet_true_batch", 2, 0.0125, 64), ("cifar10_true_batch", 2, 0.025, 32)],
)
def test_experiments_for_gpus_run_on_generated_images(
    cli: Cli, images: Path, tmp_path: Path, experiment: str, norms: int, base_lr: float, size: int
) -> None:
    """The commands a user with the hardware types, on a handful of images, one device, two steps."""
    code, out, err = cli(
        "train", "-m", f"experiment={experiment}", "data=image_folder", f"data.root={images}",
        f"data.image_size={size}", "data.num_workers=0", "trainer=cpu", "trainer.devices=1", "trainer.max_epochs=1",
        "batch_size_per_device=4,2",
        "seed=0", "trainer.limit_train_batches=2", "hydra.sweep.dir=s",
    )  # fmt: skip
    assert code == 0, out + err
    results, _ = read_results(tmp_path / "s")
    assert len(results) == 2 * norms
    assert {result.status for result in results} == {"ok"}
    by_batch = {result.config["batch_size_per_device"]: result.metrics["lr"] for result in results}
    assert by_batch == {4: pytest.approx(base_lr * 4 / 32), 2: pytest.approx(base_lr * 2 / 32)}


def test_the_gpu_experiments_compose_to_the_protocols() -> None:
    with initialize_config_module("normzoo.conf", version_base="1.3"):
        imagenet = compose("train", ["experiment=imagenet_true_batch", "data.root=x"])
        cifar10 = compose("train", ["experiment=cifar10_true_batch"])
    assert (imagenet.trainer.devices, imagenet.trainer.max_epochs, imagenet.data.image_size) == (8, 100, 224)
    # Wu & He: lr 0.1 for 32 images on each of 8 GPUs.
    assert parse(OmegaConf.to_container(imagenet, resolve=True)).lr == pytest.approx(0.1)
    assert (cifar10.trainer.devices, cifar10.model.name, cifar10.data.name) == (1, "resnet20", "cifar10")
    # He et al.: lr 0.1 for a batch of 128.
    assert parse(OmegaConf.to_container(cifar10, resolve=True)).lr == pytest.approx(0.1)


def test_tab_completion(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "normzoo train norm=group")
    code, out, _ = cli("-sc", "query=bash")
    assert code == 0
    assert "norm=group_norm" in out.split()
    monkeypatch.setenv("COMP_LINE", "normzoo tr")
    assert "train" in cli("-sc", "query=bash")[1].split()
    assert "hydra_bash_completion" in cli("train", "-sc", "install=bash")[1]


def test_a_group_chosen_on_the_command_line_takes_the_grids_options_of_it_away(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(
        "train", "-m", "experiment=small_batch", "norm=batch_norm", "data=synthetic", "data.train_size=64",
        "data.val_size=20", "data.image_size=8", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "seed=0",
        "batch_size_per_device=8", "placement=pre_act", "hydra.sweep.dir=s",
    )  # fmt: skip
    assert code == 0, out + err
    assert {result.config["norm"]["name"] for result in read_results(tmp_path / "s")[0]} == {"batch_norm"}
    (said,) = (line for line in out.splitlines() if "hydra.sweeper.grids" in line)
    assert said == (
        "left out of hydra.sweeper.grids, as options of what norm=batch_norm replaces: norm.group_size (grids 2, 3, 4)"
    )


def test_what_a_grid_varies_is_kept_where_the_choice_of_the_command_line_has_it(cli: Cli, tmp_path: Path) -> None:
    data = "data.val_shift.contrast:'1,0.4',data.size_of_what:3,data.train_size:10000"
    grids = f"[{{seed:'0,1',{data},model.widths:'[4],[8]',model.depth:2}}]"
    code, out, err = cli(
        "train", "-m", f"hydra.sweeper.grids={grids}", "data=synthetic,digits", "model=mlp", "sweep.dry_run=true",
        "hydra.sweep.dir=s",
    )  # fmt: skip
    assert code == 0, out + err
    for data, contrast, seed in product(("synthetic", "digits"), (1, 0.4), (0, 1)):
        assert f"seed={seed} data.val_shift.contrast={contrast} data={data}" in out
    assert "8 cells: 8 to run" in out
    left_out = "left out of hydra.sweeper.grids, as options of what"
    assert f"{left_out} data=synthetic,digits replaces: data.size_of_what (grid 1), data.train_size (grid 1)" in out
    assert f"{left_out} model=mlp replaces: model.widths (grid 1), model.depth (grid 1)" in out


@pytest.mark.parametrize("n_jobs", [0, -1])
def test_a_number_of_jobs_that_cannot_be(cli: Cli, tiny: tuple[str, ...], n_jobs: int) -> None:
    code, _, err = cli("train", "-m", *tiny, "seed=0,1", f"hydra.launcher.n_jobs={n_jobs}", "hydra.sweep.dir=s")
    assert code == 2
    assert f"hydra.launcher.n_jobs={n_jobs} must be 1 or more" in err


@pytest.mark.slow
def test_a_sweep_without_validation_is_measured_in_the_end(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli("train", "-m", *tiny, "seed=0,1", "trainer.limit_val_batches=0", "hydra.sweep.dir=s")
    assert code == 0, out + err
    assert all(len(record.curve) == 1 for record in read_results(tmp_path / "s")[0])


@pytest.mark.slow
@pytest.mark.ddp
def test_a_cell_under_torchrun(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    program = "from normzoo.cli import main; main()"
    script = tmp_path / "run.py"
    script.write_text(program)
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), "train",
            *tiny, "trainer.devices=2", "trainer.max_epochs=1", "hydra.run.dir=out",
        ],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    result = read_result(tmp_path / "out")
    assert (result.status, result.world_size) == ("ok", 2)


@pytest.mark.parametrize("how", ["hydra.searchpath=[file://{}]", "--config-dir={}"])
def test_a_glob_finds_what_stands_on_a_search_path(
    how: str, cli: Cli, tiny: tuple[str, ...], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    own = tmp_path / "own" / "norm" / "group_norm_of_ours.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: group_norm\nchannels_per_group: 2\n")
    told = how.format(tmp_path / "own")
    code, out, err = cli("train", "-m", told, *tiny, "norm=glob(group_norm*)", "sweep.dry_run=true")
    assert code == 0, err
    assert set(re.findall(r"norm=(\w+)", out)) == {"group_norm", "group_norm_of_ours", "group_norm_scratch"}
    assert "not available" not in out + err + "".join(str(one.message) for one in recwarn)
