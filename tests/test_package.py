"""The wheel and the sdist carry everything and nothing else, and a cell runs from the wheel outside the checkout."""

import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.environments import ask, build, make_environment, normzoo, run

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def source_files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in {".py", ".yaml", ".json", ".typed", ".md", ".j2", ".toml", ".css", ".js"}
    }


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of an environment with the wheel in it."""
    return make_environment(tmp_path_factory.mktemp("fresh"), wheel)


def test_wheel_holds_the_package_its_configs_and_nothing_else(wheel: Path) -> None:
    files = contents(wheel)
    code = {
        f"normzoo/{name}"
        for name in source_files(ROOT / "normzoo") | {f"conf/{name}" for name in source_files(ROOT / "conf")}
    }
    code |= {name.replace("/conf/", "/conf_norms/") for name in code if name.startswith("normzoo/conf/norm/")}
    # Hydra's plugins lie in the package and are installed beside it, where Hydra looks for them.
    expected = {name.removeprefix("normzoo/sweep/plugins/") for name in code}
    assert {name for name in files if not name.startswith("normzoo-")} == expected
    assert {"normzoo/py.typed", "normzoo/conf/train.yaml", "normzoo/conf/norm/group_norm.yaml"} <= expected
    (licence,) = (name for name in files if name.endswith("/licenses/LICENSE"))
    assert files[licence] == (ROOT / "LICENSE").read_bytes()


def test_sdist_holds_real_files_and_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert all(member.isreg() for member in archive.getmembers())
        safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 has it
        archive.extractall(tmp_path, **safe)
    (source,) = tmp_path.iterdir()
    assert source_files(source / "conf") == source_files(source / "normzoo" / "conf") == source_files(ROOT / "conf")
    assert source_files(source / "tests") >= {path.name for path in Path(__file__).parent.glob("*.py")}
    build(source, tmp_path / "again", "wheel")
    (again,) = (tmp_path / "again").glob("*.whl")
    assert contents(again) == contents(wheel)


def test_version_is_said_once() -> None:
    import normzoo

    assert normzoo.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_core_needs_torch_alone(fresh: Path) -> None:
    required = ask(
        fresh, "import importlib.metadata as m; print(*(r for r in m.requires('normzoo') if 'extra' not in r))"
    )
    assert required.split(">")[0] == "torch"
    assert len(required.split()) == 1


def test_installed_package_is_the_wheel_not_the_checkout(fresh: Path) -> None:
    at = Path(ask(fresh, "import normzoo; print(normzoo.__file__)")).resolve()
    assert at.is_relative_to(fresh.parent.resolve())


def test_cell_composes_and_runs_outside_the_checkout(fresh: Path, tmp_path: Path) -> None:
    cell = ["norm=group_norm", "data=digits", "model=plain_cnn", "data.train_size=200", "batch_size_per_device=32"]
    assert "name: group_norm" in normzoo(fresh, tmp_path, "train", "--cfg", "job", *cell)
    normzoo(fresh, tmp_path, "train", *cell, "trainer.max_epochs=1", "hydra.run.dir=out")
    (record,) = tmp_path.rglob("result.json")
    assert record.is_relative_to(tmp_path / "out")
    assert '"status": "ok"' in record.read_text()


def test_configs_of_a_folder_of_the_users_own_are_found(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "my_conf" / "norm").mkdir(parents=True)
    (tmp_path / "my_conf" / "norm" / "scale_only.yaml").write_text("name: scale_only\n")
    shown = normzoo(fresh, tmp_path, "train", "--config-dir", "my_conf", "norm=scale_only", "--cfg", "job")
    assert "name: scale_only" in shown


def test_configs_are_found_by_other_projects(fresh: Path) -> None:
    """`pkg://normzoo.conf` on the search path of somebody else's Hydra program finds the groups."""
    program = """
from hydra import compose, initialize_config_dir
import pathlib, tempfile
folder = pathlib.Path(tempfile.mkdtemp())
theirs = "hydra: {searchpath: [pkg://normzoo.conf]}\\ndefaults: [{norm: group_norm}, _self_]\\n"
(folder / "theirs.yaml").write_text(theirs)
with initialize_config_dir(str(folder), version_base=None):
    print(compose("theirs").norm.name)
"""
    assert ask(fresh, program) == "group_norm"


THEIR_PROGRAM = """
import hydra, normzoo
@hydra.main(version_base="1.3", config_path=".", config_name="theirs")
def main(config):
    layer = hydra.utils.instantiate(config.norm)(8)
    assert type(layer) is type(normzoo.factory(**config.norm)(8))
    open(f"{config.norm.name}.txt", "w").write(type(layer).__name__)
main()
"""


@pytest.mark.parametrize("package", ["conf", "conf_norms"])
def test_a_program_of_others_keeps_its_groups_and_hydras_launchers(fresh: Path, tmp_path: Path, package: str) -> None:
    theirs = f"hydra: {{searchpath: [pkg://normzoo.{package}], job: {{chdir: true}}}}\n"
    (tmp_path / "theirs.yaml").write_text(f"{theirs}defaults: [{{norm: group_norm}}, _self_]\n")
    (tmp_path / "program.py").write_text(THEIR_PROGRAM)
    if package == "conf":
        done = run(fresh, tmp_path, "python", "program.py", "-m", "hydra/launcher=joblib", "norm=batch_norm,rms_norm")
        written = {path.name: path.read_text() for path in tmp_path.glob("multirun/*/*/*/*.txt")}
        assert written == {"batch_norm.txt": "BatchNorm", "rms_norm.txt": "RMSNorm"}, done.stderr
    else:
        shown = run(fresh, tmp_path, "python", "program.py", "+model=resnet18", "--cfg", "job").stdout
        assert "model: resnet18" in shown, "a group of ours is found among theirs"
    shown = run(fresh, tmp_path, "python", "program.py", "hydra/launcher=ray", "--cfg", "hydra")
    assert "_target_: hydra_plugins.hydra_ray_launcher." in shown.stdout, shown.stderr
    assert "validated against ConfigStore" not in shown.stderr


def test_our_own_program_has_its_presets_of_hydras_launchers(fresh: Path, tmp_path: Path) -> None:
    shown = normzoo(fresh, tmp_path, "train", "hydra/launcher=ray", "--cfg", "hydra", "-p", "hydra.launcher")
    assert "_target_: hydra_plugins.normzoo_sweep.RayLauncher" in shown
