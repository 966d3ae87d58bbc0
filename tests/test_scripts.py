"""scripts/*.sh on a tiny stand-in for this project that installs in seconds and without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="needs bash"),
]

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "normzoo"
version = "0"
dependencies = []
[project.optional-dependencies]
sweep = []
dev = []
[tool]
"""

# Builds an editable wheel of the folder it lies in, with what pyproject.toml says about dependencies.
BACKEND = """
import os, tomllib, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with open("pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    requires = "".join(f"Requires-Dist: {name}\\n" for name in project["dependencies"])
    extras = "".join(f"Provides-Extra: {name}\\n" for name in project["optional-dependencies"])
    name = "normzoo-0-py3-none-any.whl"
    info = "normzoo-0.dist-info/"
    tag = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        wheel.writestr("normzoo.pth", os.getcwd())
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: normzoo\\nVersion: 0\\n" + requires + extras)
        wheel.writestr(info + "WHEEL", tag)
        wheel.writestr(info + "entry_points.txt", "[console_scripts]\\nnormzoo = normzoo:main\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""

# Stands in for the package and for the checkers: says how it was called, exits as NAME_EXIT says.
STUB = """
import os, sys

def main():
    print("CALLED", os.path.basename(sys.argv[0]).removesuffix(".py"), *sys.argv[1:], "IN", os.getcwd(), flush=True)
    sys.exit(int(os.environ.get(__name__.strip("_").upper() + "_EXIT", 0)))
"""


def make_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    shutil.copytree(SCRIPTS, folder / "scripts")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "normzoo.py").write_text(STUB)
    for module in ("torch", "torchvision", "hydra"):
        (folder / f"{module}.py").touch()
    for module in ("ruff", "mypy", "pytest"):
        (folder / f"{module}.py").write_text(STUB.replace("__name__", repr(module)) + "\nmain()\n")
    return folder


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_", "VIRTUAL_ENV"))}
    return kept | {"NORMZOO_PYTHON": sys.executable, "PIP_NO_INDEX": "1"} | changes


def run(
    project: Path, script: str, *arguments: str, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(project / "scripts" / script), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a space in its path whose .venv a first run has made."""
    folder = make_project(tmp_path_factory.mktemp("with space") / "check out")
    first = run(folder, "sweep.sh")
    assert first.returncode == 0, first.stderr
    assert "setup: ready after" in first.stderr
    return folder


def test_sweep_passes_overrides_on_and_stays_where_the_user_stands(project: Path, tmp_path: Path) -> None:
    plain = run(project, "sweep.sh", "seed=0", "norm=a,b c", cwd=tmp_path)
    assert plain.stdout == f"CALLED normzoo train -m experiment=small_batch seed=0 norm=a,b c IN {tmp_path}\n"
    quick = run(project, "sweep.sh", "seed=0", "--quick", cwd=tmp_path)
    assert quick.stdout == f"CALLED normzoo train -m experiment=small_batch_quick seed=0 IN {tmp_path}\n"


def test_second_run_installs_nothing(project: Path) -> None:
    again = run(project, "sweep.sh")
    assert again.returncode == 0
    assert again.stderr == ""


def test_exit_code_of_the_sweep_is_kept(project: Path) -> None:
    assert run(project, "sweep.sh", NORMZOO_EXIT="3").returncode == 3


def test_checks_all_run_and_the_first_failure_is_the_exit_code(project: Path) -> None:
    done = run(project, "test.sh", "-k", "a b", cwd=project.parent, RUFF_EXIT="4", PYTEST_EXIT="5")
    assert done.returncode == 4
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("CALLED")] == [
        "ruff",
        "ruff",
        "mypy",
        "pytest",
    ]
    assert f"-k a b IN {project}\n" in done.stdout
    assert "FAILED: ruff check (exit code 4), ruff format (exit code 4), pytest (exit code 5)" in done.stderr
    assert run(project, "test.sh").returncode == 0


def test_the_arguments_choose_what_is_run(project: Path) -> None:
    def asked(*arguments: str) -> str:
        return run(project, "test.sh", *arguments).stdout.split("CALLED pytest ")[1].split(" IN ")[0]

    parallel = "-n auto --maxprocesses=8 --dist loadfile --no-loadscope-reorder"
    assert asked() == f"{parallel} -m not slow"
    assert asked("--all") == parallel
    assert asked("--all", "--cov") == f"{parallel} --cov --cov-report=term --cov-fail-under=90"
    assert asked("--cov", "-k", "a") == "--cov --cov-report=term -k a"
    assert asked("tests/norms") == "tests/norms"


def test_failed_install_says_what_and_how_to_mend(project: Path) -> None:
    pyproject = project / "pyproject.toml"
    pyproject.write_text(PYPROJECT.replace("dependencies = []", 'dependencies = ["no-such-package-here"]', 1))
    failed = run(project, "sweep.sh")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "FAILED to install the packages (exit code 1)" in failed.stderr
    assert "No matching distribution found for no-such-package-here" in failed.stderr
    assert str(project / ".venv" / "setup.log") in failed.stderr
    assert "likely mend: " in failed.stderr
    pyproject.write_text(PYPROJECT)
    assert run(project, "sweep.sh").stderr == ""


def test_half_made_environment_is_made_anew(project: Path) -> None:
    (project / ".venv" / "setup.unfinished").touch()
    (project / ".venv" / "pyvenv.cfg").unlink()
    mended = run(project, "sweep.sh")
    assert mended.returncode == 0, mended.stderr
    assert "making .venv anew: an earlier install was cut off" in mended.stderr
    assert run(project, "sweep.sh").stderr == ""


def test_moved_checkout_is_set_up_anew(project: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(project, moved, symlinks=True)
    done = run(moved, "sweep.sh", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"making .venv anew: it was made for {project}" in done.stderr


def test_two_at_once_install_once(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "two")
    command = ["bash", str(folder / "scripts" / "sweep.sh")]
    both = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("ready after" in text for text in said) == 1
    assert sum("is in use by another" in text for text in said) == 1


def test_old_python_is_refused_by_version(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "old")
    old = tmp_path / "python old"
    old.write_text("#!/bin/sh\necho is Python 3.9\nexit 1\n")
    old.chmod(0o755)
    refused = run(folder, "sweep.sh", NORMZOO_PYTHON=str(old))
    assert refused.returncode == 2
    assert "needs Python 3.11 or newer" in refused.stderr
    assert f"{old}: is Python 3.9" in refused.stderr


def test_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "foreign")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "thesis.tex").touch()
    refused = run(folder, "sweep.sh")
    assert refused.returncode == 2
    assert "is no virtual environment" in refused.stderr
    assert (folder / ".venv" / "thesis.tex").exists()
