"""What a user's own config lacks or holds too much of: defaults stand in, or one clear line says so of that cell."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from normzoo.errors import UserError
from normzoo.identity import cell_id
from normzoo.sweep.precheck import Precheck
from normzoo.training.config import parse
from normzoo.training.config_keys import GIVEN
from tests.training.conftest import composed

Cli = Callable[..., tuple[int, str, str]]
Compose = Callable[..., dict[str, Any]]

NEEDED = {
    "norm", "norm.name", "model", "model._target_", "data", "data._target_", "optimizer", "optimizer._target_",
    "optimizer.base_lr",
}  # fmt: skip
WHOLE = composed()


def keys(config: Mapping[str, Any], within: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield within + key
        if isinstance(value, dict):
            yield from keys(value, f"{within}{key}.")


def without(key: str) -> dict[str, Any]:
    config = copy.deepcopy(WHOLE)
    *path, last = key.split(".")
    node = config
    for name in path:
        node = node[name]
    del node[last]
    return config


def with_value(key: str, value: Any) -> dict[str, Any]:
    config = OmegaConf.create(WHOLE)
    OmegaConf.update(config, key, value, merge=False)
    return OmegaConf.to_container(config)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def precheck() -> Precheck:
    return Precheck()


@pytest.mark.parametrize("key", list(keys(WHOLE)))
def test_any_deleted_key_has_a_default_or_a_line(key: str, precheck: Precheck) -> None:
    config = without(key)
    if key in NEEDED:
        with pytest.raises(UserError, match=rf"\A{key}.* is missing and has no default"):
            parse(config)
        return
    assert precheck.of(parse(config))[0] is None


@pytest.mark.parametrize("value", [None, "x", []], ids=repr)
def test_any_odd_value_passes_or_has_a_line(value: Any, precheck: Precheck) -> None:
    for key in keys(WHOLE):
        try:
            reason = precheck.of(parse(with_value(key, value)))[0]
        except UserError as error:
            reason = str(error)
        assert reason is None or reason.strip(), key


def test_defaults_are_those_of_the_configs() -> None:
    shipped = composed("batch_size_per_device=32", "trainer=default")
    for key in set(keys(WHOLE)) - NEEDED:
        filled = OmegaConf.select(OmegaConf.create(parse(without(key)).plain), key)
        if filled is not None and not isinstance(filled, DictConfig):
            assert filled == OmegaConf.select(OmegaConf.create(shipped), key), key


def test_nothing_is_added_to_what_is_complete() -> None:
    whole = parse(WHOLE)
    assert whole.plain == {**WHOLE, "recipe": whole.plain["recipe"]}
    assert whole.identity == cell_id(WHOLE)


UNREAD = {
    "nrom": "did you mean norm?", "hooks": "a cell has batch_size",
    "evaluation.metrics": "train_samples",
    "evaluation.train_sample": "did you mean evaluation.train_samples?",
    "trainer.max_epoch": "did you mean trainer.max_epochs?",
    "claim.nmae": "did you mean claim.name?", "sweep.resum": "unknown option sweep.resum", "probe.x": "probe=[x]",
    "logger.x": "no _target_", "study.x": "no _target_",
    "norm.x": "x", "model.x": "x", "data.x": "x", "optimizer.x": "x",
    "placement.x": "x", "recipe.x": "x", **{key: meant or "normzoo sets it itself" for key, meant in GIVEN.items()},
}  # fmt: skip


@pytest.mark.parametrize("key", UNREAD)
def test_what_nothing_reads_is_refused(key: str, precheck: Precheck) -> None:
    try:
        said = precheck.of(parse(with_value(key, 1)))[0] or "not refused"
    except UserError as error:
        said = str(error)
    assert UNREAD[key] in said
    assert key.rpartition(".")[2] in said


def test_what_a_constructor_takes_passes(precheck: Precheck) -> None:
    for key, value in (
        ("norm.eps", 1e-3), ("model.widths", [8, 8, 8, 8]), ("data.noise", 0.1), ("trainer.max_steps", 5),
        ("trainer.gradient_clip_algorithm", "norm"), ("optimizer.dampening", 0.1),
    ):  # fmt: skip
        assert precheck.of(parse(with_value(key, value)))[0] is None, key


def test_a_key_that_values_refer_to_is_read() -> None:
    config = with_value("width", 8)
    parse(config, raw='{"model": {"widths": ["${width}"]}}')
    parse(config, ["+width=8", "model.widths=[${width}]"])
    with pytest.raises(UserError, match="nothing reads width"):
        parse(config, ["+width=8"])


OWN = {
    "broken": ("name: [batch_norm\n", r"broken.yaml, line 2: this is not YAML"),
    "latin": ("name: \xff\n", "norm=latin: this is not YAML"),
    "tab": ("\tname: batch_norm\n", "tab.yaml, line 1: this is not YAML"),
    "twice": ("name: batch_norm\nname: group_norm\n", "twice.yaml, line 2: .*duplicate key name"),
    "brace": ("name: ${oops\n", "norm=brace: name: no viable alternative"),
    "dangling": ("name: ${nothing.here}\n", r"norm.name: Interpolation key 'nothing.here' not found"),
    "nowhere": ("defaults: [other]\nname: batch_norm\n", r"norm/nowhere.yaml asks for another config: norm=other"),
    "number": ("defaults: 3\nname: batch_norm\n", "Invalid defaults list in 'norm/number'"),
    "listed": ("- batch_norm\n", r"norm=\['batch_norm'\] must be a mapping of options"),
    "empty": ("", "norm.name is missing"),
    "nameless": ("eps: 1.0e-5\n", "norm.name is missing"),
    "mixed": ("name: batch_norm\n1: 2\n", "keywords must be strings"),
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own" / "norm"
    folder.mkdir(parents=True)
    for name, (text, _) in OWN.items():
        (folder / f"{name}.yaml").write_bytes(text.encode("latin-1"))
    return folder.parent


@pytest.mark.parametrize("name", OWN)
def test_a_config_that_cannot_be_read_is_named(cli: Cli, tiny: tuple[str, ...], own: Path, name: str) -> None:
    code, out, err = cli("train", *tiny, "--config-dir", str(own), f"norm={name}", "sweep.dry_run=true")
    assert (code, out) == (2, "")
    assert re.search(OWN[name][1], err), err
    assert err.count("\n") == 1


def test_the_other_cells_run(cli: Cli, tiny: tuple[str, ...], own: Path) -> None:
    norms = f"norm={','.join(OWN)},batch_norm"
    code, out, err = cli("train", "-m", *tiny, "--config-dir", str(own), norms, "sweep.dry_run=true")
    assert code == 0, err
    assert f"{len(OWN) + 1} cells: 1 to run" in out
    assert f"{len(OWN)} refused" in out
    assert "Traceback" not in out + err


def test_an_optimizer_of_ones_own_without_what_has_a_default(cli: Cli, tiny: tuple[str, ...], own: Path) -> None:
    (own / "optimizer").mkdir()
    (own / "optimizer" / "rprop.yaml").write_text("_target_: torch.optim.Rprop\nbase_lr: 0.01\n")
    deleted = ("~seed", "~trainer.threads", "~evaluation", "~logger", "~placement")
    code, _, err = cli("train", *tiny, "--config-dir", str(own), "optimizer=rprop", *deleted, "hydra.run.dir=one")
    assert code == 0, err
