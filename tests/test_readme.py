"""What the READMEs and the experiments tell a reader to run can be run."""

import ast
import contextlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

import normzoo
from normzoo import cli
from normzoo._conformance import SLOW
from normzoo.commands.claims import read_claims

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = {
    path: (ROOT / path).read_text(encoding="utf-8")
    for path in (
        "README.md",
        *(f"normzoo/{room}/README.md" for room in ("sweep", "claims", "norms", "surgery")),
        "scripts/examples/README.md",
        "tests/README.md",
    )
}
ALL = "\n".join(GUIDES.values())
EXPERIMENTS = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))

RUN_BLOCKS = """
import sys
for number, block in enumerate(sys.stdin.read().split("\\0"), 1):
    print("block", number, flush=True)
    exec(compile(block, f"README.md, python block {number}", "exec"), {"__name__": f"block_{number}"})
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", ALL, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Command lines of the READMEs, in blocks and within sentences, and of the experiments' headers."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines += re.findall(r"`((?:normzoo|bash scripts/)[^`\n]*)`", ALL)
    lines += re.findall(
        r"^# Command: (.*)$", "\n".join(path.read_text(encoding="utf-8") for path in EXPERIMENTS), re.MULTILINE
    )
    found = [shlex.join(shlex.split(line, comments=True)) for line in lines]
    return sorted({line for line in found if line and "OVERRIDE" not in line})


COMMANDS = commands()
NORMZOO_COMMANDS = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("normzoo ")]
SWEEP_COMMANDS = [shlex.split(line)[2:] for line in COMMANDS if line.startswith("bash scripts/sweep.sh")]
# These want a folder or a package of the reader's own: test_package.py has one, test_plugin.py the other.
THEIR_OWN = re.compile(r"--config-dir|hydra\.searchpath=.*")
TRAIN_COMMANDS = [
    words[1:] for words in NORMZOO_COMMANDS if words[0] == "train" and not any(map(THEIR_OWN.fullmatch, words))
]
TRAIN_COMMANDS += [
    [f"experiment=small_batch{'_quick' if '--quick' in words else ''}", *(word for word in words if word != "--quick")]
    for words in SWEEP_COMMANDS
]


def test_the_first_screen_holds_two_commands_and_the_figure() -> None:
    first_screen = "\n".join(README.splitlines()[:30])
    assert "bash scripts/sweep.sh" in first_screen
    assert re.search(r"!\[.+\]\(\.github/.+\.png\)", first_screen)
    assert len(README.split()) <= 1200


def test_python_blocks_run(tmp_path: Path) -> None:
    code = blocks("python")
    assert code
    pytest.importorskip("timm")
    done = subprocess.run(
        [sys.executable, "-c", RUN_BLOCKS],
        input="\0".join(code),
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_python_block_of_the_guide_names_its_own_file() -> None:
    """The block that shows a new norm would be found: its file, its name and its yaml are called the same."""
    (block,) = (block for block in blocks("python") if "@register" in block)
    (name,) = re.findall(r'@register\("(\w+)"', block)
    assert block.startswith(f"# normzoo/norms/{name}.py\n")
    assert f"# conf/norm/{name}.yaml\n_target_: normzoo.registry.hydra_factory\nname: {name}\n" in blocks("yaml")
    assert ast.get_docstring(next(node for node in ast.parse(block).body if isinstance(node, ast.ClassDef)))


def test_the_table_holds_every_norm() -> None:
    """All but the twins written out; `evo_norm_s0/s1` stands for two."""
    table = README.split("| names |")[1].split("\n\n")[0]
    listed = set()
    for written in [name for row in table.splitlines()[2:] for name in re.findall(r"`([\w/]+)`", row.split("|")[2])]:
        first, *others = written.split("/")
        listed |= {first, *(f"{first[: -len(other)]}{other}" for other in others)}
    ours = [name for name in normzoo.list_norms() if normzoo.info(name).build.__module__.startswith("normzoo.norms.")]
    assert sorted(listed) == [name for name in ours if not name.endswith("_scratch")]


def test_the_table_holds_every_claim() -> None:
    table = ALL.split("| claim | what is run |")[1].split("\n\n")[0]
    listed = [row.split("`")[1] for row in table.splitlines()[2:]]
    assert sorted(listed) == sorted(claim.name for claim in read_claims())


@pytest.mark.slow
@pytest.mark.parametrize("grids", ["--quick", ""], ids=["quick", "full"])
def test_the_cells_of_all_claims_are_as_many_as_it_says(grids: str, tmp_path: Path) -> None:
    """Those that are planned: claims have cells in common, and only composed can they be told to be the same."""
    quick, full = re.findall(r"`--quick` takes .* \(([\d,]+) cells\) and the full run .* \(([\d,]+) cells\)", ALL)[0]
    done = subprocess.run(
        [sys.executable, "-c", "from normzoo.cli import main; main()", "claims", *grids.split(), "sweep.dry_run=true"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"\n{quick if grids else full} cells: " in done.stdout


@pytest.mark.parametrize(
    "group", ["model", "placement", "data", "optimizer", "recipe", "trainer", "logger", "experiment"]
)
def test_choices_of_the_table_are_there(group: str) -> None:
    (row,) = re.findall(rf"^\| `{group}` \| (.*) \|$", ALL, flags=re.MULTILINE)
    listed = re.findall(r"`(\w+)`", row)
    assert listed
    assert set(listed) <= {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}


def test_the_table_of_facts_holds_every_argument_of_register() -> None:
    table = ALL.split("| fact | meaning | checked |")[1].split("\n\n")[0]
    listed = [row.split("`")[1] for row in table.splitlines()[2:]]
    assert sorted(listed) == sorted(set(inspect.signature(normzoo.register).parameters) - {"name"})


def test_the_guide_names_the_slow_checks() -> None:
    (said,) = re.findall(r"leave out the slow checks: (.*?)\.", ALL)
    assert re.findall(r"`(\w+)`", said) == [check.__name__ for check in SLOW]


def test_the_example_workflow_runs_what_is_there() -> None:
    """On push fast and at night all: the test file of the guide, switched by the variable that it reads."""
    (text,) = (block for block in blocks("yaml") if block.startswith("# .github/workflows/"))
    workflow = yaml.safe_load(text)
    assert set(workflow[True]) == {"push", "schedule"}  # YAML 1.1 reads the key `on` as true
    (job,) = workflow["jobs"].values()
    *_, install, test = job["steps"]
    assert {"normzoo", "pytest", "."} <= set(install["run"].split())
    *command, path = test["run"].split()
    assert command == ["python", "-m", "pytest"]
    (tested,) = (block for block in blocks("python") if block.startswith(f"# {path}\n"))
    (switch,) = test["env"]
    assert f'fast=not os.environ.get("{switch}")' in tested
    assert "github.event_name == 'schedule'" in test["env"][switch]


@pytest.mark.parametrize("guide", GUIDES)
def test_linked_files_are_there(guide: str) -> None:
    linked = [path for path in re.findall(r"\]\(([^)#]+)\)", GUIDES[guide]) if "://" not in path]
    assert [path for path in linked if not ((ROOT / guide).parent / path).exists()] == []


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_module("normzoo.conf", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.mark.parametrize("words", TRAIN_COMMANDS, ids=" ".join)
def test_train_commands_compose(words: list[str], loader: ConfigLoader) -> None:
    """The first cell of each composes."""
    flags = [word for word in words if word.startswith("-")]
    assert set(flags) <= {"-m", "--help"}
    overrides = [word for word in words if word not in flags]
    cell = []
    for override in OverridesParser.create(config_loader=loader).parse_overrides(overrides):
        if override.is_sweep_override():
            assert "-m" in flags
            cell.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
        else:
            cell.append(override.input_line)
    config = compose("train", cell)
    assert config.norm.name in normzoo.list_norms()


@pytest.mark.parametrize("words", [words for words in NORMZOO_COMMANDS if words[0] != "train"], ids=" ".join)
def test_other_commands_parse(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They run, or get as far as missing what they name: what argparse refuses ends with its usage instead."""
    monkeypatch.chdir(tmp_path)
    for command in ("bench", "claims"):  # which take minutes
        monkeypatch.setattr(f"normzoo.commands.{command}.run", print)
    with contextlib.suppress(SystemExit):
        cli.main(words)
    assert "usage:" not in capsys.readouterr().err


def test_scripts_of_commands_are_there() -> None:
    scripts = {shlex.split(line)[1] for line in COMMANDS if line.startswith("bash ")}
    assert scripts == {"scripts/sweep.sh", "scripts/test.sh"}
    assert all(os.access(ROOT / script, os.R_OK) for script in scripts)
