"""One clear error for each wrong input, no traceback, and nothing trained."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]

WRONG = {
    "unknown norm": (("norm=groop_norm",), r"\Aerror: norm=groop_norm: .*did you mean group_norm.*\n\Z"),
    "norm by another name": (("norm=GN",), r"\Aerror: norm=GN: .* write norm=group_norm\n\Z"),
    "unknown model": (("model=resnet9",), r"\Aerror: model=resnet9 is not there; did you mean .*resnet8.*\n\Z"),
    "unknown data set": (("data=mnist6k",), r"\Aerror: data=mnist6k .* did you mean mnist5k.*\n\Z"),
    "unknown trainer": (
        ("trainer=quantum",),
        r"\Aerror: trainer=quantum is not there; there are cpu, default, gpu\n\Z",
    ),
    "no experiment": (
        ("experiment=null",),
        r"\Aerror: experiment=null: experiment is a group .* leave it out, or choose one of .*small_batch.*\n\Z",
    ),
    "a number for a norm": (("norm=3",), r"\Aerror: norm=3: norm is a group .*batch_norm.*\n\Z"),
    "a group without a number": (("~norm=3",), r"\Aerror: ~norm=3: norm is a group .*batch_norm.*\n\Z"),
    "misspelt option": (("norm=group_norm", "norm.num_group=4"), r"num_group"),
    "misspelt option, forced": (("norm=group_norm", "+norm.num_group=4"), r"num_group[\s\S]*num_groups"),
    "misspelt model option, forced": (("+model.width=4",), r"plain_cnn[\s\S]*width"),
    "group count": (("norm=group_norm", "norm.num_groups=3"), r"3[\s\S]*1, 2, 4, 8"),
    "batch larger than the data": (("batch_size_per_device=97",), r"97[\s\S]*96"),
    "no batch": (("batch_size_per_device=0",), r"batch_size"),
    "batch 1 with batch norm on a 1×1 map": (("norm=batch_norm", "batch_size_per_device=1"), r"\(1, 64, 1, 1\)"),
    "instance norm on a 1×1 map": (("norm=instance_norm",), r"\(8, 64, 1, 1\)"),
    "more devices than there are": (("trainer.devices=999",), r"999"),
    "a GPU where there is none": (("trainer=gpu",), r"CUDA"),
    "unknown accelerator": (("trainer.accelerator=tpu",), r"auto, cpu or gpu"),
    "unwritable output": (("hydra.run.dir=/dev/null/run",), r"cannot write into /dev/null/run"),
    "unknown placement": (("placement.where=everywhere",), r"everywhere[\s\S]*all_but_last"),
    "a norm with a condition": (("norm=spade",), r"spade is of kind 'conditional'"),
    "an option left to be given": (("model.widths=???",), r"model.widths must be given"),
    "several choices of one group": (("logger=[csv,tensorboard]",), r"a cell has one logger: choose logger=csv"),
    "a study's option": (("study=federated", "+study.foo=1"), r"study=federated has an option that it does not take"),
    "a probe's option": (("probe=fit_time", "+probe.fit_time.foo=1"), r"fit_time: .*unexpected keyword argument 'foo'"),
    "a strategy for GPUs": (("trainer.strategy=fsdp", "trainer.accelerator=cpu"), r"`fsdp` requires a GPU"),
    "a strategy that needs a package": (("trainer.strategy=deepspeed",), r"trainer=cpu: .*deepspeed"),
    "a profiler": (("+trainer.profiler=nope",), r"trainer=cpu: .*profiler"),
    "unknown schedule": (("optimizer.schedule=zigzag",), r"cosine"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_cell(cli: Cli, tiny: tuple[str, ...], tmp_path: Path, what: str) -> None:
    overrides, words = WRONG[what]
    if what == "a GPU where there is none" and __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU here")
    code, out, err = cli("train", *tiny, "hydra.run.dir=out", *overrides)
    said = out + err
    assert code != 0
    assert "Traceback" not in said, said
    assert re.search(words, said), said
    assert "epoch 1/" not in said


@pytest.mark.parametrize(
    "what",
    ["unknown norm", "no experiment", "misspelt option", "more devices than there are", "misspelt option, forced"],
)
def test_a_wrong_sweep(cli: Cli, tiny: tuple[str, ...], tmp_path: Path, what: str) -> None:
    overrides, words = WRONG[what]
    code, out, err = cli("train", "-m", *tiny, "seed=0,1", "hydra.sweep.dir=out", *overrides)
    said = out + err
    assert code != 0
    assert "Traceback" not in said, said
    assert re.search(words, said), said
    assert not list(tmp_path.glob("out/*/result.json"))


def test_an_unwritable_sweep_folder(cli: Cli, tiny: tuple[str, ...]) -> None:
    code, out, err = cli("train", "-m", *tiny, "seed=0,1", "hydra.sweep.dir=/dev/null/sweep")
    assert code != 0
    assert "cannot write into /dev/null/sweep" in err
    assert "Traceback" not in out + err


def test_a_sweep_in_which_no_cell_can_be(cli: Cli, tiny: tuple[str, ...]) -> None:
    code, out, err = cli("train", "-m", *tiny, "norm=instance_norm", "seed=0,1", "hydra.sweep.dir=out")
    assert code == 2
    assert "none of the 2 cells can run" in err
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_a_corrupt_cache_file(cli: Cli, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMZOO_CACHE", str(tmp_path / "cache"))
    cli("train", *tiny, "data=mnist5k", "trainer.limit_train_batches=1", "hydra.run.dir=out")
    (cached,) = (tmp_path / "cache").rglob("*.npz")
    cached.write_bytes(cached.read_bytes()[:1000])
    code, out, err = cli("train", *tiny, "data=mnist5k", "hydra.run.dir=out2")
    assert code != 0
    assert str(cached) in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("content", [None, "empty", "foreign", "absent"])
def test_report_on_a_folder_without_results(cli: Cli, tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "results"
    if content != "absent":
        folder.mkdir()
    if content == "foreign":
        (folder / "result.json").write_text('{"accuracy": 1}')
    code, out, err = cli("report", str(folder))
    assert code != 0
    assert "Traceback" not in out + err
    assert str(folder) in err


COMMANDS = {
    "trian": r"error: unknown command 'trian'; did you mean train\?\n",
    "norm=group_norm": r"did you mean normzoo train norm=group_norm\?\n",
    "quantum": "error: unknown command 'quantum'; the commands are train, report, claims, list, show, atlas, "
    "doctor, bench\n",
    "train --norm group_norm": "write an override as norm=group_norm\n",
    "train --batch-size": "unknown option --batch-size of normzoo train; write an override as batch_size=<value>\n",
    "train --seed=1 -m": "error: unknown option --seed=1 of normzoo train; write an override as seed=1\n",
    "report a b": r"\Ausage: normzoo report [\s\S]*normzoo report: error: unrecognized arguments: b\n",
    "claims --only nope": r"error: unknown claim 'nope'; `normzoo claims --list` lists all\n\Z",
    "claims --only smal_batch": r"error: unknown claim 'smal_batch'; did you mean small_batch\?",
    "claims --only small_batch seed=(": r"error: seed=\(: ",
    "train --help norm": r"\Aerror: norm: .* an override reads norm=value\n\Z",
    "train --config-name nope": r"\Aerror: there is no config nope on Hydra's search path\n\Z",
    "train --config-dir nowhere": r"\Aerror: Additional config directory '.*nowhere' not found\n\Z",
    "train --experimental-rerun nofile": r"error: File nofile does not exist!\n\Z",
    "train -m hydra.launcher=null": r"\Aerror: Hydra launcher is not configured\n\Z",
    "train -m hydra.launcher.n_jobs=x": r"error: hydra.launcher.n_jobs=x must be 1 or more, or null for all cores\n",
    "train -m hydra.sweeper.grids=[x]": r"\Aerror: hydra.sweeper.grids=\['x'\] must be a list of mappings .*\n\Z",
    "train hydra/launcher=nope": r"\Aerror: hydra/launcher=nope is not there; there are .*normzoo.*\n\Z",
    "train probe=[nope]": r"\Aerror: probe=nope is not there; there are .*fit_time.*\n\Z",
    "train probe=fit_tim": r"\Aerror: probe=fit_tim is not there; did you mean fit_time\?\n\Z",
    "train experiment=learning_rates,small_batch": r"\Aerror: .*: several values make a sweep: add -m",
    "show ''": "error: unknown norm",
    "show --bench nofile batch_norm": "error: no figures in nofile: ",
    "list --rank x": "invalid int value",
    "report /dev/null": "error: /dev/null is not a folder",
    "bench layers --norms nope": "error: unknown norm 'nope'",
    "bench layers --shape x": "expected a shape such as",
    "bench layers --quick": r"\Ausage: normzoo bench layers [\s\S]*unrecognized arguments: --quick\n",
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_wrong_command_line(cli: Cli, line: str) -> None:
    code, out, err = cli(*line.split())
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert re.search(COMMANDS[line], err), err


def test_an_experiment_without_m(cli: Cli, tiny: tuple[str, ...]) -> None:
    code, _, err = cli("train", *tiny, "experiment=small_batch", "batch_size_per_device=0", "hydra.run.dir=out")
    assert code == 2
    assert err.startswith("experiment=small_batch is a sweep: add -m to run it; this trains one cell")
    assert "is a sweep" not in cli("train", *tiny, "batch_size_per_device=0", "hydra.run.dir=out")[2]


def test_an_unknown_command_and_help(cli: Cli) -> None:
    code, _, err = cli("tran")
    assert code != 0
    assert "train" in err
    code, out, _ = cli("--help")
    assert code == 0
    for words in (
        "train -m experiment=small_batch",
        "a folder in runs/",
        "Exit codes: 0",
        "diverged cell has not failed",
    ):
        assert words in out
    code, out, _ = cli("train", "--help")
    assert code == 0
    for words in ("runs/sweep_TIME", "sweep.dry_run=true", "diverged cell is a result", "hydra/launcher=normzoo"):
        assert words in out
    for group in ("norm:", "model:", "placement:", "data:", "optimizer:", "trainer:", "logger:", "experiment:"):
        assert group in out
