"""The bench of sweeps computes its figures from what it measures; how long anything takes is never asserted."""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.backends import mkldnn

from normzoo.bench import other_load
from normzoo.bench.measure import Step, Times
from normzoo.bench.measurement import Measurement
from normzoo.errors import UserError
from normzoo.results import CellResult, read_results, write_result
from scripts.bench_sweep import __main__ as bench_sweep
from scripts.bench_sweep import commands, convolutions, figures, template
from scripts.bench_sweep.commands import Ended
from scripts.bench_sweep.records import write_records

TINY = ("norm=group_norm", "norm.channels_per_group=8", "trainer=cpu", "data=synthetic", "data.train_size=96",
        "data.val_size=40", "data.image_size=8", "batch_size_per_device=8", "trainer.max_epochs=1")  # fmt: skip
Sweep = Callable[..., tuple[float, list[Ended]]]


def settings(norm: str = "group_norm", seed: int = 0) -> dict[str, Any]:
    groups = {"norm": {"name": norm}, "placement": {"name": "pre_act"}, "model": {"name": "plain_cnn"}}
    return {**groups, "batch_size_per_device": 8, "data": {"image_size": 8}, "seed": seed}


def ended(at: float, status: str = "ok", norm: str = "group_norm", seed: int = 0, **metrics: float) -> Ended:
    return Ended(at, CellResult(cell="", status=status, config=settings(norm, seed), metrics={**metrics}))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sweep], list[tuple[str, ...]]]:
    """Let a function stand for the sweeps that are run; gives the overrides of each."""

    def stand_in(sweep: Sweep) -> list[tuple[str, ...]]:
        asked: list[tuple[str, ...]] = []

        def recorded(
            overrides: Sequence[str], folder: Path, accepted: Sequence[int] = (0,)
        ) -> tuple[float, list[Ended]]:
            asked.append(tuple(overrides))
            return sweep(overrides, folder)

        for module in (figures, template):
            monkeypatch.setattr(module, "sweep", recorded)
        return asked

    return stand_in


@pytest.mark.parametrize(
    ("values", "at_most", "reached", "said"),
    [
        ((0.2, 0.1, 0.9), True, True, "0.2 s (0.1 to 0.9, 3 times)"),
        ((0.4,), True, False, "0.4 s (once)"),
        ((0.4,), False, True, "target ≥ 0.3 s"),
        ((0.30004,), True, False, "0.30004 s (once)"),
        ((0.29996,), False, False, "0.29996 s (once)"),
        ((0.29996,), True, True, "0.3 s (once)"),
        ((), True, None, "not measured"),
    ],
)
def test_a_figure_is_a_median_against_its_target(
    values: tuple[float, ...], at_most: bool, reached: bool | None, said: str
) -> None:
    figure = Measurement("a name", "s", 0.3, at_most, values, "a note")
    assert figure.reached is reached
    assert said in figure.line()
    assert figure.line().endswith("\n    a note")
    assert ("NOT reached" in figure.line()) == (reached is False)
    assert figure.record()["reached"] is reached
    json.dumps(figure.record())


def test_overhead_is_what_lies_between_records_without_the_training(told: Any) -> None:
    asked = told(lambda *_: (0.0, [ended(10.0, fit_s=9.0), ended(11.0, fit_s=0.75), ended(13.0, fit_s=1.5)]))
    figure = figures.cell_overhead(cells=2, rounds=2, overrides=TINY)
    assert figure.values == [0.25, 0.5, 0.25, 0.5]
    assert "seed=0,1,2" in asked[0]
    assert "hydra.launcher.n_jobs=1" in asked[0]


def test_cores_are_compared_by_cells_a_minute(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def swept(overrides: Sequence[str], folder: Path) -> tuple[float, list[Ended]]:
        step = 2.0 if "hydra.launcher.n_jobs=1" in overrides else 1.25
        return 0.0, [ended(100 + step * i) for i in range(4)]

    told(swept)
    monkeypatch.setattr(figures, "processor_cores", lambda: [0, 1])
    figure = figures.two_cores(cells=4, rounds=1)
    assert figure.values == [pytest.approx(1.6)]  # 30 and 48 a minute
    assert "30 and 48 cells a minute" in figure.note
    monkeypatch.setattr(figures, "processor_cores", lambda: [0])
    assert figures.two_cores().median is None


def test_a_cell_that_failed_makes_no_figure(told: Any) -> None:
    told(lambda *_: (0.0, [ended(1.0), ended(2.0, status="error")]))
    with pytest.raises(RuntimeError, match="a cell of the bench is error"):
        figures.cell_overhead(cells=1, rounds=1)


def test_the_template_runs_the_same_cells_but_the_refused_ones(
    told: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = [ended(1.0, seed=0, val_error_running=7.0), ended(1.5, seed=1, val_error_running=6.0),
            ended(1.7, seed=2, status="diverged"), ended(2.0, status="refused", norm="instance_norm")]  # fmt: skip

    def our_sweep(overrides: Sequence[str], folder: Path) -> tuple[float, list[Ended]]:
        for number, one in enumerate(here):
            write_result(folder / str(number), one.result)
        return 10.0, here

    asked = told(our_sweep)
    run: list[Sequence[str]] = []
    errors = {0: 8.0, 1: 6.5, 2: 90.0}

    def template_run(command: Sequence[str], folder: Path, accepted: Sequence[int]) -> float:
        run.append(command)
        target = Path(next(one for one in command if one.startswith("hydra.sweep.dir=")).split("=", 1)[1])
        for seed, error in errors.items():
            (target / str(seed) / ".hydra").mkdir(parents=True)
            (target / str(seed) / ".hydra" / "config.yaml").write_text(json.dumps(settings(seed=seed)))
            (target / str(seed) / "metrics.json").write_text(json.dumps({"val_error": error}))
        return 45.0

    monkeypatch.setattr(template, "run", template_run)
    figure = template.against_template([{"norm": "group_norm,instance_norm", "seed": "0,1,2"}])
    assert figure.values == [4.5]
    assert "3 cells, 10 s here and 45 s there" in figure.note
    assert "6.5 % here and 7.2 % there, a difference of -0.75 ± 0.25 (" in figure.note
    assert "norm=group_norm" in run[0]
    assert 'hydra.sweeper.grids=[{norm:"group_norm,instance_norm",seed:"0,1,2"}]' in asked[0]
    errors |= {0: 9.0, 1: 8.1}
    note = template.against_template([{"norm": "group_norm", "seed": "0,1,2"}]).note
    assert note.endswith("a difference of -2.05 ± 0.05 (standard error over cells), MORE than chance")
    del errors[2]
    kept = template.against_template([{"norm": "group_norm", "seed": "0,1,2"}], keep=tmp_path / "kept")
    assert "2 cells, 10 s" in kept.note
    assert kept.note.endswith("MORE cells: 1 here and 0 there")
    before = len(asked), len(run)
    assert template.against_template([{"norm": "group_norm", "seed": "0,1,2"}], keep=tmp_path / "kept") == kept
    assert (len(asked), len(run)) == before
    (tmp_path / "kept" / "normzoo.json").write_text('{"seconds": null}')  # as an interrupted run leaves it
    assert template.against_template([{"norm": "group_norm", "seed": "0,1,2"}], keep=tmp_path / "kept") == kept
    assert len(asked) == before[0] + 1
    (tmp_path / "normzoo").mkdir()
    with pytest.raises(UserError, match="normzoo is there already, and is not of this comparison"):
        template.against_template([{"norm": "group_norm", "seed": "0,1,2"}], keep=tmp_path)
    assert (tmp_path / "normzoo").is_dir()
    errors.clear()
    with pytest.raises(UserError, match="3 cells here and 0 there"):
        template.against_template([{"norm": "group_norm", "seed": "0,1,2"}])
    monkeypatch.setattr(template, "BASELINE", Path("nowhere"))
    assert template.against_template().median is None


def test_a_part_of_the_grid_is_kept_apart_from_the_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: list[Path] = []
    monkeypatch.setattr(template, "against_template", lambda *grids, keep: kept.append(keep))
    for quick in (True, False):
        assert list(bench_sweep.measure_sweep(["template"], quick=quick, keep=tmp_path)) == [None]
    assert len(set(kept)) == 2


def test_the_default_grid_is_that_of_the_experiment() -> None:
    grids = template.default_grid()
    assert len(grids) > 1
    assert grids[0]["norm"].startswith("identity,batch_norm,group_norm")
    assert all(isinstance(value, str) for grid in grids for value in grid.values())


def test_generated_records_are_read_back_and_differ(tmp_path: Path) -> None:
    with figures._launcher((), str(tmp_path)) as (launcher, _):
        config = figures._plain_config(launcher)
    write_records(tmp_path / "sweep", config, 700)
    results, unreadable = read_results(tmp_path / "sweep")
    assert (len(results), unreadable) == (700, [])
    assert len({result.cell for result in results}) == 700
    assert {result.seed for result in results} == {0, 1}
    assert len({result.config["norm"]["name"] for result in results}) > 30
    assert results[0].config.keys() == config.keys()


@pytest.mark.slow
def test_planning_and_report_are_measured(tmp_path: Path) -> None:
    planned = figures.planning((*TINY, "seed=0,1"), rounds=2)
    assert len(planned.values) == 2
    assert "the plan of the 2 cells" in planned.note
    reported = figures.report_seconds(records=30, rounds=1)
    assert reported.median is not None
    assert reported.median > 0
    assert reported.name == "report over 30 results"


def test_what_the_rule_chooses_is_compared_with_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"plain": 4.0, "oneDNN": 1.0}
    seen: dict[str, list[bool]] = {"forward": [], "backward": []}

    class Spy(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if y.requires_grad:
                seen["forward"].append(bool(mkldnn.enabled))
                y.register_hook(lambda _: seen["backward"].append(bool(mkldnn.enabled)))
            return y

    def timed(ways: Mapping[str, Step], rounds: int) -> dict[str, Times]:
        for step in ways.values():
            step(torch.ones(()))
        return {way: Times((0.0,) * rounds, (seconds[way],) * rounds) for way in ways}

    monkeypatch.setattr(convolutions, "time_in_turn", timed)
    spied = nn.Sequential(Spy(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    monkeypatch.setitem(convolutions.MODELS, "plain_cnn", lambda: spied)
    figure = convolutions.small_batches([("plain_cnn", 8, 2), ("plain_cnn", 8, 32)])
    assert seen == {"forward": [False, True] * 2, "backward": [False, True] * 2}
    assert figure.median == pytest.approx(2.0)
    assert figure.reached is False
    assert "of plain_cnn without norms on one thread, images of 8 pixels, batches of 2 to 32; 1 of 2 " in figure.note
    assert "do without oneDNN, in 4.00 to 4.00 of its time" in figure.note
    assert figure.note.endswith("more than a tenth slower than the other way: plain_cnn 8 px batch 2 4.00")
    seconds["plain"] = 0.5
    assert convolutions.small_batches([("plain_cnn", 8, 2)]).median == 1.0
    assert convolutions.small_batches([("plain_cnn", 8, 32)]).median == 2.0
    monkeypatch.setattr(mkldnn, "is_available", lambda: False)
    assert convolutions.small_batches([("plain_cnn", 8, 2)]).reached is None


def test_all_nets_are_convolved() -> None:
    assert {model for model, *_ in convolutions.cases()} == set(convolutions.MODELS)
    for model, side in {(model, side) for model, side, _ in convolutions.cases()}:
        assert convolutions.MODELS[model]()(torch.zeros(1, 1, side, side)).shape == (1, 10)
    median = convolutions.small_batches([("lenet5", 28, 2)], rounds=1).median
    assert median is not None
    assert 1.0 <= median < math.inf


@pytest.mark.slow
def test_a_real_sweep_tells_its_overhead() -> None:
    figure = figures.cell_overhead(cells=1, rounds=1, overrides=TINY)
    assert len(figure.values) == 1


@pytest.mark.slow
def test_the_template_trains_to_the_same_error() -> None:
    grid = {"norm": "group_norm", "batch_size_per_device": "32", "seed": "0,1"}
    figure = template.against_template([grid])
    assert figure.median is not None
    assert figure.note.startswith("2 cells")
    here, there = (float(part.split()[-1]) for part in figure.note.split(" %")[:2])
    assert here < 15
    assert abs(here - there) < 3  # each over the same 1,000 images and two seeds, in other orders


def test_a_command_that_fails_says_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exit code 3 .*\n.*the last"):
        commands.run([sys.executable, "-c", "print('the last'); raise SystemExit(3)"], tmp_path)


def test_figures_are_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick: list[dict[str, Any]] = []

    def planning(**options: Any) -> Measurement:
        quick.append(options)
        return Measurement("planning", "ms", 2.0, True, [1.0])

    monkeypatch.setattr(figures, "planning", planning)
    file = tmp_path / "figures.json"
    bench_sweep.main(["--quick", "--only", "planning", "--json", str(file)])
    assert quick == [{"rounds": 1}]
    assert "target ≤ 2 ms" in capsys.readouterr().out
    written = json.loads(file.read_text())
    assert [figure["name"] for figure in written["figures"]] == ["planning"]
    assert written["figures"][0]["cores_taken_by_others"] >= 0
    assert written["machine"]["cores"] > 0


def test_what_others_take_is_what_the_machine_does_beyond_us(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([(100.0, 10.0, 0.0), (108.0, 12.0, 4.0)])
    monkeypatch.setattr(other_load, "_seconds", lambda: next(seconds))
    assert other_load.OtherLoad().cores() == 1.5  # 8 s of all, 2 of them ours, in 4 s
    seconds = iter([(100.0, 10.0, 0.0), (100.07, 10.0, 0.01)])
    assert other_load.OtherLoad().cores() == 0  # some ticks, in a time too short to tell
    monkeypatch.undo()
    busy, own, clock = other_load._seconds()
    assert 0 < own < busy
    assert clock <= other_load._seconds()[2]


@pytest.mark.parametrize(
    ("options", "says"), [(["--only", "speed"], "overhead, planning"), (["--rounds", "0"], "at least 1")]
)
def test_bad_options_are_refused(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        bench_sweep.main([*options])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
