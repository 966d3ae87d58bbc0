"""A sweep's cells are composed as Hydra composes them, only faster."""

import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import Container, DictConfig, ListConfig, OmegaConf, open_dict, read_write

from normzoo.errors import UserError
from normzoo.sweep.compose import Composer
from normzoo.sweep.hydra_task import parsed
from normzoo.sweep.sweeper import cells


def facts(node: Any) -> Any:
    """All there is to a node: its value as written, its type, its flags, and those of the nodes below, in order."""
    below: Any = None
    if isinstance(node, DictConfig):
        below = [(key, facts(node._get_node(key))) for key in ([] if node._is_missing() or node._is_none() else node)]
    elif isinstance(node, ListConfig):
        below = [facts(child) for child in ([] if node._is_missing() or node._is_none() else node._content)]
    value = None if isinstance(node, Container) else node._value()
    meta = node._metadata
    return type(node), value, meta.ref_type, meta.object_type, meta.optional, meta.flags, below


class Sweep:
    """A composer, beside the loader of Hydra that it stands for, which counts how often it is asked."""

    def __init__(self, *overrides: str) -> None:
        setup_globals()
        self.hydra: Any = GlobalHydra.instance().config_loader()
        self.master = self.hydra.load_configuration("train", list(overrides), RunMode.MULTIRUN)
        self.asked: list[list[str]] = []
        self.composer = Composer(self, self.master, "/sweep")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hydra, name)

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        self.asked.append(overrides)
        return self.hydra.load_sweep_config(master, overrides)

    def compare(self, overrides: list[str]) -> None:
        """The composer's configuration equals Hydra's, node by node, and so does what is parsed of it."""
        config, composition = self.composer.compose(overrides)
        expected = self.hydra.load_sweep_config(self.master, overrides)
        assert facts(composition.config()) == facts(expected)
        with read_write(expected), open_dict(expected):
            expected.hydra.runtime.output_dir = "/sweep"
            HydraConfig.instance().set_config(expected)
            del expected["hydra"]
        assert config == parsed(expected)


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    before = HydraConfig.instance().cfg
    with initialize_config_module("normzoo.conf", version_base="1.3"):
        yield
    HydraConfig.instance().cfg = before


@pytest.mark.slow
def test_the_cells_of_an_experiment() -> None:
    sweep = Sweep("experiment=small_batch")
    sweeper: Any = Plugins.instance().instantiate_sweeper(
        config=sweep.master,
        hydra_context=HydraContext(config_loader=sweep.hydra, callbacks=Callbacks()),
        task_function=lambda config: None,
    )
    listed = cells(sweeper, ["experiment=small_batch"])
    assert len(listed) > 150
    for overrides in listed[::12]:
        sweep.compare(overrides)
    norms_and_placements = {
        tuple(sorted(o for o in overrides if re.match("norm=|placement=", o))) for overrides in listed
    }
    assert len(sweep.asked) == len(norms_and_placements)


QUICK = {
    "a value": ["batch_size_per_device=4", "optimizer.base_lr=1e-3"],
    "groups and values in any order": ["model.widths=[4,8]", "model=plain_cnn", "seed=3", "norm=group_norm"],
    "a new value": ["norm=group_norm", "+norm.num_groups=4", "+model.fresh=1", "+data.deep.er=2"],
    "a value added or changed": ["++seed=4", "++model.deep=[1,{a: 2}]"],
    "a value taken away": ["~evaluation.train_samples", "~trainer.precision"],
    "a mapping for a group": ["norm={name: batch_norm, eps: 1e-3}", "placement={where: last}"],
    "a value that refers to another": ["evaluation.train_samples=${batch_size_per_device}", "batch_size_per_device=16"],
    "a value Hydra quotes": ["+data.root='a, b=c'", "norm=group_norm", "norm.eps='1e-3'"],
    "a value of Hydra's": [
        "+hydra.job.env_set={A: b}",
        "hydra.job.config.override_dirname.exclude_keys=[seed]",
        "seed=1",
    ],
    "a logger that looks up the folder": ["logger=csv", "seed=1"],
    "a group added": ["+norm@model.other=group_norm", "model.other.name=x", "seed=2"],
    "a group taken away": ["~logger", "seed=2"],
    "a value looked up in what Hydra knows of the cell": ["+name=${hydra:job.name}"],
    "one that Hydra looks up in the cell": ["hydra.job.name=of_${seed}", "+name=${hydra:job.name}"],
    "nothing": [],
    "null": ["seed=null", "trainer.gradient_clip_val=null"],
    "a value that others refer to": ["model=mlp", "data.image_size=20"],
    "a value in place of one that refers": ["model=mlp", "model.image_size=12"],
    "a value in place of a list": ["model.widths=7"],
    "a missing value and a text": ["model.widths=???", "data.order=sorted"],
    "a number for a text": ["model.name=1e3", "data.order=null", "trainer.precision=0x10"],
}


@pytest.mark.slow
@pytest.mark.parametrize("what", QUICK)
def test_odd_overrides(what: str) -> None:
    sweep = Sweep()
    sweep.compare(["seed=5", *QUICK[what]])
    assert len(sweep.asked) == 1
    again = ["seed=6", *QUICK[what]]
    sweep.compare(again)
    assert len(sweep.asked) == 1  # the second cell costs no composition of Hydra's


@pytest.mark.slow
def test_a_value_that_refers_to_one_that_each_cell_gives(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    mine = "# @package _global_\nepochs: ???\ntrainer:\n  max_epochs: ${epochs}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(mine)
    sweep = Sweep(f"hydra.searchpath=[file://{tmp_path}]")
    for epochs in (1, 2):
        sweep.compare(["experiment=mine", f"epochs={epochs}"])
        assert sweep.composer.compose(["experiment=mine", f"epochs={epochs}"])[0].trainer.max_epochs == epochs
    assert len(sweep.asked) == 1
    for overrides in ([], ["seed=1"], ["+name=${hydra:job.name}"]):
        with pytest.raises(UserError, match="Missing mandatory value: epochs") as told:
            sweep.composer.compose(["experiment=mine", *overrides])
        assert "\n" not in str(told.value)
    sweep.compare(["experiment=mine", "epochs=3", "+name=${hydra:job.name}"])


LEFT_TO_HYDRA = {
    "a value taken away if it is this one": ["~seed=0"],
    "one that refers to another": ["++name=${batch_size_per_device}", "~name=4"],
    "one that is set first": ["++name=x", "~name"],
    "one that is set again": ["~seed", "+seed=4"],
    "one of a mapping that is set": ["++model={other: 1}", "~model.other"],
    "one within what is set again": ["~model.widths", "++model={widths: 7}"],
}


@pytest.mark.parametrize("what", LEFT_TO_HYDRA)
def test_what_only_hydra_can_tell(what: str) -> None:
    sweep = Sweep()
    sweep.compare(["batch_size_per_device=4", *LEFT_TO_HYDRA[what]])
    assert sweep.asked[-1] == ["batch_size_per_device=4", *LEFT_TO_HYDRA[what]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", [["norm=grup_norm"], ["norm.num_group=4"], ["+seed=1"], ["~nothing"], ["seed=1,2"], ["seed=[1"], ["a@b=c"]]
)
def test_errors_are_hydras(wrong: list[str]) -> None:
    sweep = Sweep()
    with pytest.raises(HydraException) as ours:
        sweep.composer.compose(["batch_size_per_device=4", *wrong])
    with pytest.raises(HydraException) as theirs:
        sweep.hydra.load_sweep_config(sweep.master, ["batch_size_per_device=4", *wrong])
    assert str(ours.value) == str(theirs.value)


def test_the_time_is_that_of_the_sweep_in_every_cell() -> None:
    sweep = Sweep("hydra.sweep.dir=s_${now:%H-%M-%S-%f}")
    named = sweep.master.hydra.sweep.dir
    for seed in (1, 2):
        assert sweep.composer.compose([f"seed={seed}"])[1].config().hydra.sweep.dir == named


def test_a_composition_is_sent_to_another_process_with_what_is_its_own() -> None:
    sweep = Sweep()
    composition = sweep.composer.compose(["norm=group_norm", "seed=3"])[1]
    own = replace(composition, own={"hydra.job.num": 7, "hydra.sweep.subdir": "here"})
    config = pickle.loads(pickle.dumps(own)).config()
    assert (config.seed, config.hydra.job.num, config.hydra.sweep.subdir) == (3, 7, "here")
    assert OmegaConf.is_missing(composition.config().hydra.job, "num")
