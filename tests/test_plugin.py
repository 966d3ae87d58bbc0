"""A norm from a package of its own, installed beside normzoo: found, tested, swept; and one that does not load."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import ask, build, make_environment, normzoo, run, site_packages

pytestmark = pytest.mark.slow

TINY = (
    "data=synthetic", "data.train_size=64", "data.val_size=32", "data.image_size=8", "trainer=cpu",
    "trainer.max_epochs=1", "batch_size_per_device=8",
)  # fmt: skip
CONFIGS = "hydra.searchpath=[pkg://normzoo_sample.conf]"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of an environment with the wheels of normzoo and of the plug-in."""
    out = tmp_path_factory.mktemp("plugin")
    build(Path(__file__).parent / "plugin", out, "wheel")
    (plugin,) = out.glob("*.whl")
    return make_environment(tmp_path_factory.mktemp("with_plugin"), wheel, plugin)


@pytest.fixture
def neighbours(installed: Path) -> Iterator[None]:
    """Two more plug-ins: one whose import fails, and one that wants a name that the first has."""
    site = site_packages(installed)
    taken = (
        "import normzoo\nfrom torch import nn\n"
        "@normzoo.register('mean_abs_norm', batch_dependent=False)\nclass Twin(nn.Identity):\n"
        "    def __init__(self, num_features): super().__init__()\n"
    )
    codes = {"zoo_broken": "import a_package_that_is_not_there\n", "zoo_twin": taken}
    for name, code in codes.items():
        (site / f"{name}.py").write_text(code)
        metadata = site / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[normzoo.norms]\n{name} = {name}\n")
    yield
    for name in codes:
        (site / f"{name}.py").unlink()
        shutil.rmtree(site / f"{name}-1.0.dist-info")


def test_is_listed_and_shown_with_its_owner(installed: Path, tmp_path: Path) -> None:
    rows = dict(line.split("\t", 1) for line in normzoo(installed, tmp_path, "list").splitlines())
    assert rows["mean_abs_norm"].split("\t") == ["C", "no", "no", "no", "-"]
    assert "batch_norm" in rows
    shown = normzoo(installed, tmp_path, "show", "MAN")
    assert "y = x / (mean(|x|) + eps) · weight" in shown
    assert "normzoo-sample (normzoo_sample.norms)" in shown
    assert re.search(r"normzoo_sample.norms\.py:\d+$", shown, re.MULTILINE)


def test_is_created_without_being_imported(installed: Path) -> None:
    program = "import normzoo; print(type(normzoo.create('mean_abs_norm', 8)).__module__)"
    assert ask(installed, program) == "normzoo_sample.norms"


def test_is_held_to_the_conformance_suite_in_one_line(installed: Path) -> None:
    outcome = ask(installed, "from normzoo.testing import check_norm; print(check_norm('mean_abs_norm'))")
    assert "'gradcheck': 'passed'" in outcome
    assert "fails" not in outcome


def test_its_config_is_found_through_the_search_path(installed: Path, tmp_path: Path) -> None:
    config = normzoo(installed, tmp_path, "train", "norm=mean_abs_norm", "norm.eps=0.5", CONFIGS, "--cfg", "job")
    assert "name: mean_abs_norm\n  eps: 0.5" in config


@pytest.mark.usefixtures("neighbours")
def test_neighbours_that_do_not_load_are_said_once_and_break_nothing(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "normzoo", "list")
    assert done.returncode == 0
    assert {"batch_norm", "mean_abs_norm"} <= {line.split("\t")[0] for line in done.stdout.splitlines()}
    broken, twin = done.stderr.splitlines()
    assert broken.startswith("warning: the normzoo plug-in 'zoo_broken' from zoo_broken did not load")
    assert "No module named 'a_package_that_is_not_there'" in broken
    assert "'mean_abs_norm' from zoo_twin (zoo_twin) is already taken by 'mean_abs_norm' from normzoo-sample" in twin


@pytest.mark.usefixtures("neighbours")
def test_is_swept_by_name_whatever_its_neighbours_do(installed: Path, tmp_path: Path) -> None:
    sweep = ["train", "-m", *TINY, "norm=batch_norm,mean_abs_norm", CONFIGS, "hydra.sweep.dir=s"]
    done = run(installed, tmp_path, "normzoo", *sweep)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("'zoo_broken' from zoo_broken did not load") == 1
    table = (tmp_path / "s" / "results.csv").read_text().splitlines()
    assert sorted(line.split(",")[0] for line in table[1:]) == ["batch_norm", "mean_abs_norm"]
    assert all(",ok," in line for line in table[1:])


@pytest.mark.usefixtures("neighbours")
def test_a_norm_of_a_plugin_that_did_not_load_is_unknown_and_the_reason_given(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "normzoo", "show", "broken_norm")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "The plug-in 'zoo_broken' from zoo_broken did not load: ModuleNotFoundError" in done.stderr
