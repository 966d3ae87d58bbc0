"""normzoo claims on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from normzoo.commands.claims import Claim, arguments
from normzoo.results import read_results

Cli = Callable[..., tuple[int, str, str]]


def test_the_claims_are_listed(cli: Cli) -> None:
    code, out, _ = cli("claims", "--list")
    assert code == 0
    assert "small_batch" in out
    assert "Wu & He 2018" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "small_bach"], "did you mean small_batch?"),
        (["--only", ","], "--only names no claim"),
        (["small_batch"], "--only small_batch"),
        (
            ["--dir", "/proc/none/claims"],
            "choose another folder with --dir",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(cli: Cli, words: list[str], said: str) -> None:
    code, _, err = cli("claims", *words)
    assert code == 2
    assert said in err


def test_grids_are_read_back_by_hydra(tmp_path: Path) -> None:
    grid = {
        "norm": "batch_norm,group_norm",
        "seed": 0,
        "norm.affine": True,
        "model.name": "it's",
        "x": None,
        "y": "1,2",
    }
    claim = Claim("a", "A.", "S", [grid, {}], [{"seed": "0,1"}])
    parser = OverridesParser.create()
    words = arguments([claim], tmp_path / "two words, and=more", quick=False)
    folder, grids, command = (parser.parse_override(word) for word in words[1:])
    assert folder.value() == str(tmp_path / "two words, and=more")
    assert command.value() == "normzoo claims"
    read = [{key: str(value) for key, value in found.items()} for found in grids.value()]  # type: ignore[union-attr]
    assert read == [
        {"experiment": "a", "norm": "batch_norm,group_norm", "seed": "0", "norm.affine": "True", "model.name": "it's",
         "x": "null", "y": "1,2", "++claim.grids": "full"},
        {"experiment": "a", "++claim.grids": "full"},
    ]  # fmt: skip
    (quick,) = parser.parse_override(arguments([claim], tmp_path, quick=True)[2]).value()  # type: ignore[misc]
    assert {key: str(value) for key, value in quick.items()} == {
        "experiment": "a", "seed": "0,1", "++claim.grids": "quick",
    }  # fmt: skip


@pytest.mark.slow
def test_a_claim_is_run_judged_and_gone_on_with(cli: Cli, tmp_path: Path) -> None:
    small = ("data=synthetic", "data.train_size=64", "data.val_size=32", "data.image_size=8", "seed=0")
    code, out, err = cli("claims", "--quick", "--only", "small_batch", "--dir", "two words", *small)
    assert code == 0, err
    folder = tmp_path / "two words"
    page = (folder / "claims.md").read_text(encoding="utf-8")
    assert f"Run it again with `normzoo claims --only small_batch --quick {' '.join(small)}`" in page
    assert (folder / "claims" / "small_batch.png").exists()
    assert not (folder / "summary.md").exists()  # of a sweep as a whole, which claims are not
    listed = json.loads((folder / "claims.json").read_text(encoding="utf-8"))["small_batch"]
    assert listed["grids"] == "quick"
    results, _ = read_results(folder)
    assert sorted(listed["cells"]) == sorted(result.cell for result in results)
    assert len(results) == 4
    written = (folder / results[0].cell / "result.json").stat().st_mtime_ns
    code, out, err = cli("claims", "--quick", "--only", "small_batch", "--dir", "two words", *small)
    assert code == 0, err
    assert "4 done before" in out
    assert (folder / results[0].cell / "result.json").stat().st_mtime_ns == written
    code, out, err = cli("report", "two words")
    assert (code, "small_batch" in out) == (0, True)
    assert not (folder / "summary.md").exists()


@pytest.mark.slow
def test_an_experiment_that_stands_for_a_claim_ends_with_its_verdict(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(
        "train", "-m", "experiment=small_batch", "norm=group_norm", "batch_size_per_device=16", "placement=pre_act",
        "data=synthetic", "data.train_size=64", "data.val_size=32", "data.image_size=8", "trainer.max_epochs=1",
        "seed=0", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert code == 0, err
    assert "not measured: small_batch" in out
    assert (tmp_path / "sweep" / "summary.md").exists()
    assert (tmp_path / "sweep" / "claims.md").exists()
