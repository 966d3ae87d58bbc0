"""A misspelling on the command line ends it in one line that names what is nearest, with code 2, and leaves nothing."""

import shlex
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from omegaconf.errors import ConfigKeyError

Cli = Callable[..., tuple[int, str, str]]

MISSPELT = {
    "modle=lenet5": "there is no modle; did you mean model?",
    "optimizer.base_rl=0.1": "there is no optimizer.base_rl; did you mean optimizer.base_lr?\n",
    "optimizer.momentun=0.5": "there is no optimizer.momentun; did you mean optimizer.momentum?\n",
    "optimizer.dampening=0.1": "(+optimizer.dampening=0.1 would add it)\n",
    "trainer.max_steps=5": "(+trainer.max_steps=5 would add it)\n",
    "trainer.max_epoch=2": "there is no trainer.max_epoch; did you mean trainer.max_epochs?",
    "norm.num_group=4": "there is no norm.num_group; norm=batch_norm has eps, momentum, affine, bias",
    "hydra.launcher.n_job=2": "there is no hydra.launcher.n_job; did you mean hydra.launcher.n_jobs?",
    "sweep.resum=true": "there is no sweep.resum; did you mean sweep.resume?",
    "sweep.foo=1": "sweep has resume, retry",
    "experiments=small_batch": "there is no experiments; did you mean experiment?",
    "hydra/launchr=ray": "there is no hydra/launchr; did you mean hydra/launcher?",
    "lr=0.1": "there is no lr; did you mean optimizer.base_lr",
    "train.max_epochs=3": "there is no train.max_epochs; did you mean trainer.max_epochs?",
    "~optimizer.momentm": "there is no optimizer.momentm; did you mean optimizer.momentum?\n",
    "optimizer.lr=0.1": "there is no optimizer.lr; write optimizer.base_lr=...\n",
    "data.batch_size=4": "there is no data.batch_size; write batch_size_per_device=...\n",
    "trainer.callbacks=[]": "there is no trainer.callbacks; write callbacks=...\n",
    "+hydra.foo=1": "nothing reads it; options: defaults, mode",
    "+hydra.job.foo=1": "nothing reads it; options: name, chdir",
    "hydra.sweep.subdir=x": "choose the folder of the sweep with hydra.sweep.dir",
    "data.root=a(b": "is written 'data.root=\"a(b\"'\n",
    "data.root=a#b": "is written 'data.root=\"a#b\"'\n",
    "data.root=a;b": "is written 'data.root=\"a;b\"'\n",
    "data.root=a!b": "is written 'data.root=\"a!b\"'\n",
    "data.root=it's": "is written 'data.root=\"it'\"'\"'s\"'\n",
    "norm": "an override reads norm=value\n",
    "a b=1": "Hydra cannot read it\n",
    "optimizer.base_lr=interval(0,1)": "train -m hydra/sweeper=optuna 'optimizer.base_lr=interval(0,1)'",
    "+trainer.max_epochs=3": "trainer.max_epochs is there already; write trainer.max_epochs=3\n",
    "+norm=group_norm": "norm is chosen already; write norm=group_norm\n",
    "hydra.job.num=x": "could not be converted to Integer\n",
    "seed=[1": "no viable alternative",
    "experiment=smal_batch": "is not there; did you mean small_batch",
    "norm=batchnorm2": "unknown norm 'batchnorm2'; did you mean batch_norm",
}


SEVERAL = ("norm=batch_norm,group_norm", "optimizer.momentum=0.5,0.9", "seed=range(3)", "norm=glob(*)")


def test_several_values_without_a_sweep(cli: Cli, tmp_path: Path) -> None:
    for argument in SEVERAL:
        typed = shlex.quote(argument)
        assert cli("train", argument) == (
            2, "", f"error: {argument}: several values make a sweep: add -m, as in normzoo train -m {typed}\n",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["alone", "sweep"])
def test_a_misspelling(cli: Cli, tmp_path: Path, mode: tuple[str, ...]) -> None:
    for argument, words in list(MISSPELT.items())[:: 3 if mode else 1]:
        code, out, err = cli("train", *mode, argument)
        assert (code, out) == (2, ""), argument
        assert err.startswith(f"error: {argument}: ") or "is not there" in err
        assert words in err
        assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [InstantiationException("lost"), ConfigKeyError("lost"), ValueError("lost")], ids=repr
)
def test_what_a_cell_dies_of_is_no_slip_of_the_hand(
    cli: Cli, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("normzoo.sweep.hydra_task.run_cell", mock.Mock(side_effect=error))
    code, out, err = cli("train", *tiny, "hydra.run.dir=one")
    assert (code, out) == (1, "")
    assert err.startswith("Traceback")
    assert err.endswith(f"{type(error).__name__}: lost\n")


def test_no_option_acts_on_the_terminal(cli: Cli) -> None:
    for option in ("-\x1b[2J", "--\x1b[2J", "-m\x1b[2J"):
        code, out, err = cli("train", option)
        assert (code, out) == (2, "")
        assert f"unknown option {option} of".replace("\x1b", "\\x1b") in err
        assert "\x1b" not in err


AXES = {
    "norm=glob(zzz*)": "no choice of norm matches",
    "seed=range(5,1)": "it has no values",
    "hydra.sweep.dir=a,b": "Sweeping over Hydra's configuration is not supported",
}


@pytest.mark.parametrize("argument", AXES)
def test_an_axis_without_values(cli: Cli, tmp_path: Path, argument: str) -> None:
    code, out, err = cli("train", "-m", argument)
    assert (code, out) == (2, "")
    assert AXES[argument] in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_hint_can_be_pasted(cli: Cli, tiny: tuple[str, ...]) -> None:
    _, _, err = cli("train", "data.root=it's (mine)")
    (override,) = shlex.split(err.rpartition("is written ")[2])
    assert OverridesParser.create().parse_override(override).value() == "it's (mine)"


def test_a_misspelling_of_an_axis(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("train", "-m", "seed=0,1", "optimizer.base_rl=0.1,0.2")
    assert code == 2
    assert "did you mean optimizer.base_lr?" in err
    assert not list(tmp_path.iterdir())


def test_an_option_of_another_optimizer(cli: Cli, tiny: tuple[str, ...]) -> None:
    one_cell = ("experiment=learning_rates", "hydra.sweeper.grids=[]", *tiny)
    plan = ("train", "-m", *one_cell, "optimizer=adam", "sweep.dry_run=true")
    code, _, err = cli(*plan)
    assert code == 2
    assert "optimizer=adam takes no momentum" in err
    assert "leave it out with ~optimizer.momentum" in err
    code, out, err = cli(*plan, "~optimizer.momentum")
    assert code == 0, err
    assert "to run" in out


def test_a_config_of_a_norm_that_nothing_registers(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own" / "norm").mkdir(parents=True)
    (tmp_path / "own" / "norm" / "my_norm.yaml").write_text("name: my_norm\n")
    code, _, err = cli("train", "-m", "--config-dir", "own", "norm=my_norm", "sweep.dry_run=true")
    assert code == 2
    assert "norm=my_norm: there is a config of that name, but nothing installed registers" in err
    assert "`normzoo.norms`" in err
