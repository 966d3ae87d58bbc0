"""The printed command goes on with the sweep it was printed by, whatever the folder is called."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from normzoo.resume_command import COMMAND, anew, command_of, go_on, hydra_quoted


def test_the_folder_is_named_and_what_was_asked_for_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = "normzoo train -m norm=batch_norm,group_norm hydra.sweep.dir=elsewhere sweep.resume=false 'seed=range(3)'"
    assert go_on(tmp_path / "runs" / "s", given) == (
        "normzoo train -m norm=batch_norm,group_norm 'seed=range(3)' hydra.sweep.dir=runs/s"
    )
    assert go_on("/other/s", "normzoo train -m sweep.retry=none", retry="failed") == (
        "normzoo train -m sweep.retry=failed hydra.sweep.dir=/other/s"
    )


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", "a=b", "a,b", "[x]", "back\\slash", "ends\\", "\\'", "é", "'"]
)
def test_shell_and_hydra_read_the_folder_back(name: str) -> None:
    (*_, override) = shlex.split(go_on(f"/s/{name}", "normzoo train -m"))
    parsed = OverridesParser.create().parse_override(override)
    assert (parsed.key_or_group, parsed.value()) == ("hydra.sweep.dir", f"/s/{name}")


def test_a_sweep_of_claims_goes_on_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["normzoo", "claims", "--quick", "data.root=it's ${here}\\", "sweep.resume=false"]
    text = shlex.join(words).replace("${", "\\${")
    parsed = OverridesParser.create().parse_override(f"+{COMMAND}={hydra_quoted(text)}")
    config = OmegaConf.create()
    OmegaConf.update(config, COMMAND, parsed.value())
    command = command_of(config)
    assert shlex.split(go_on("/two words", command, retry="failed")) == [
        *words[:4], "sweep.retry=failed", "--dir", "/two words",
    ]  # fmt: skip
    assert shlex.split(anew(command)) == words[:4]
    monkeypatch.setattr("sys.argv", ["normzoo", "-m", "seed=0,1", "hydra.sweep.dir=x"])
    for none in ({}, {"hydra": {"callbacks": {"report": {"command": None}}}}):
        assert anew(command_of(OmegaConf.create(none))) == "normzoo train -m seed=0,1"
