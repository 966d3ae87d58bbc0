"""The bench measures what it says, on operations whose figures are known; how long anything takes is never asserted."""

import argparse
import importlib.util
import json
import os
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normzoo
from normzoo import bench, cli
from normzoo.bench import compiled, layers, measure
from normzoo.bench.cases import Case
from normzoo.bench.measure import Ratio, Times
from normzoo.bench.measurement import Measurement
from normzoo.bench.references import REFERENCES, TOKENS
from normzoo.commands import bench as bench_command

TINY = (2, 8, 4, 4)
X_BYTES = 2 * 8 * 4 * 4 * 4


def an_input() -> torch.Tensor:
    return torch.randn(TINY).requires_grad_()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x + 1, 0),
        (lambda x: x * 2, 0),
        (lambda x: x * x, 1),
        (lambda x: x.sigmoid(), 1),
        (lambda x: x.sigmoid().sigmoid(), 2),
        (lambda x: x.exp() * x.exp(), 2),
        (lambda x: x[:1].square(), 1),  # a part keeps the whole
        (lambda x: x.clone()[:1].square() + x.square()[:1], 2),
        (lambda x: F.layer_norm(x, TINY[1:]), 1 + 2 * 2 * 4 / X_BYTES),  # and a mean and a deviation for each sample
        (lambda x: x.detach().sigmoid(), 0),
    ],
)
def test_saved_bytes_of_known_operations(function, expected):
    assert bench.saved_bytes(function, an_input()) == expected * X_BYTES


def test_saved_bytes_leave_parameters_out():
    layer, x = nn.Conv2d(8, 8, 3, padding=1), an_input()
    assert bench.saved_bytes(layer, x) == X_BYTES + layer.weight.nbytes
    assert bench.saved_bytes(layer, x, parameters=tuple(layer.parameters())) == X_BYTES
    assert bench.Step.of(layer, x).saved_bytes() == X_BYTES


def test_saved_bytes_of_batch_norm_are_its_input_and_two_vectors():
    layer, x = nn.BatchNorm2d(8), an_input()
    found = bench.saved_bytes(layer, x, parameters=tuple(layer.parameters()))
    assert X_BYTES + 2 * 8 * 4 <= found <= X_BYTES + 4 * 8 * 4, "running statistics may count"


def test_nothing_is_saved_without_a_gradient():
    with torch.no_grad():
        assert bench.saved_bytes(nn.BatchNorm2d(8), an_input()) == 0


def test_steps_are_timed_in_turn(monkeypatch):
    """Each as often as the other, an unmeasured run before each measured one, each round there and back."""
    calls = []

    def called(name, layer):
        def run(x):
            calls.append(name)
            return layer(x)

        return run

    monkeypatch.setattr(measure, "MIN_SECONDS", 0.0)  # so that no step has to be repeated
    x = an_input()
    steps = {name: bench.Step(called(name, nn.Sigmoid()), (x,)) for name in ("a", "b")}
    times = bench.time_in_turn(steps, rounds=3)
    assert calls == ["a"] * 2 + ["b"] * 2 + ["a", "a", "b", "b", "b", "b", "a", "a"] * 3
    for found in times.values():
        assert len(found.forward) == len(found.both) == 3
        assert all(0 < forward <= both for forward, both in zip(found.forward, found.both, strict=True))


def test_a_step_leaves_no_gradient_behind():
    layer, x = nn.BatchNorm2d(8), an_input()
    forward, both = bench.Step.of(layer, x)(torch.ones(TINY))
    assert 0 < forward < both
    assert x.grad is None
    assert layer.weight.grad is None


def test_ratio_is_the_median_of_those_of_the_rounds_with_their_quartiles():
    """A round in which others took half the machine counts once, however long it was."""
    assert Ratio.of([1, 2, 9], [2, 4, 4]) == Ratio(median=0.5, low=0.5, high=1.375, rounds=3)
    assert Ratio.of([3.0], [2.0]) == Ratio(1.5, 1.5, 1.5, 1)


@pytest.mark.parametrize(
    ("ratio", "decides"),
    [
        (Ratio(1.04, 0.9, 1.2, 8), False),
        (Ratio(1.04, 1.03, 1.05, 100), True),  # known to a hundredth
        (Ratio(0.5, 0.45, 0.55, 8), True),  # plainly below
        (Ratio(1.6, 1.5, 1.7, 8), True),  # plainly above
        (Ratio(1.6, 1.5, 1.7, 7), False),  # from too few rounds
    ],
)
def test_when_a_ratio_decides_whether_its_target_is_reached(ratio, decides):
    assert ratio.decides(1.05) is decides


def test_rounds_go_on_near_a_target_and_no_further(monkeypatch):
    monkeypatch.setattr(Ratio, "decides", lambda ratio, target: ratio.rounds >= 6)
    (near,) = bench.measure_layers(["BN"], TINY, rounds=2)
    assert near.forward.rounds == near.both.rounds == 6
    monkeypatch.setattr(Ratio, "decides", lambda ratio, target: False)
    (never,) = bench.measure_layers(["GN"], TINY, rounds=1)
    assert never.forward.rounds == 20
    (untimed,) = bench.measure_layers(["iter_norm"], TINY, rounds=2)
    assert untimed.forward.rounds == 2


def test_rows_have_what_was_measured():
    (row,) = bench.measure_layers(["BN"], TINY, rounds=2)
    assert (row.norm, row.against, row.shape) == ("batch_norm", "nn.BatchNorm2d", TINY)
    assert 0 < row.forward.low <= row.forward.high
    assert row.both.median > 0
    assert row.milliseconds[0] < row.milliseconds[1]
    assert row.saved == row.saved_against > 1
    assert row.compiled_both is row.compiled_saved is None
    assert row.note == ""


def test_tokens_have_a_row_of_their_own():
    rows = list(bench.measure_layers(["rms_norm"], TINY, rounds=1))
    assert [(row.norm, row.shape) for row in rows] == [("rms_norm", TINY), ("rms_norm, tokens", (2, 16, 8))]
    assert {row.against for row in rows} == {"nn.RMSNorm"}


def test_every_norm_is_measured_or_says_why_not(monkeypatch):
    """Those that need no more than there is; a norm of weights on a convolution, a conditional one with a condition."""
    monkeypatch.setattr(Ratio, "decides", lambda ratio, target: True)
    rows = {row.norm: row for row in bench.measure_layers(shape=(4, 8, 6, 6), rounds=1)}
    assert set(normzoo.list_norms()) <= set(rows)
    assert not [row for row in rows.values() if row.both is None and not row.note]
    for name in normzoo.list_norms():
        assert rows[name].milliseconds, f"{name}: {rows[name].note}"
    for name in normzoo.list_norms(kind="weight"):
        assert rows[name].against == "nn.Conv2d without it"


def test_references_are_of_norms_that_there_are():
    assert set(REFERENCES) | set(TOKENS) <= set(normzoo.list_norms())


@pytest.mark.parametrize(
    ("norm", "device", "expected"),
    [
        ("GN", "cpu", [("group_norm, forward", 1.05, False), ("group_norm, forward+backward", 1.05, True)]),
        ("evo_norm_b1", "cpu", [("evo_norm_b1, forward+backward", 0.5, False), ("evo_norm_b1, saved", 0.5, True)]),
        ("filter_response_norm", "cuda", [("filter_response_norm, forward+backward", 0.5, False)]),
        ("rms_norm", "cpu", [("rms_norm, forward+backward", 0.7, False), ("rms_norm, saved", 2, False)]),
        ("rms_norm", "cuda", [("rms_norm, saved", 2, False)]),
        ("weight_norm", "cpu", [("weight_norm, saved", 2, False)]),
        ("identity", "cpu", []),
    ],
)
def test_targets(norm, device, expected):
    """Forward 2.1 times as long as the reference, 0.9 with the backward, 2.5 inputs kept and 5 by the reference."""
    name = normzoo.info(norm).name
    row = bench.LayerRow(name, "it", TINY, (1, 2), Ratio(2.1, 2.0, 2.2), Ratio(0.9, 0.8, 1.3), 2.5, 5.0)
    figures = bench.targets(row, device)
    assert [(each.name, each.target, each.reached) for each in figures][: len(expected)] == expected
    assert len(figures) == len(expected) or name == "filter_response_norm"
    for figure in figures:
        json.dumps(figure.record())
        assert figure.median == {"forward": 2.1, "forward+backward": 0.9}.get(
            figure.name.split(", ")[1], 2.5 / (5 if figure.target == 0.5 else 1)
        )
        assert ("0.9 × (0.8 to 1.3)" in figure.line()) == (figure.median == 0.9)
        assert ("NOT reached" in figure.line()) == (not figure.reached)


def test_a_target_without_a_figure_is_not_measured():
    row = bench.LayerRow("evo_norm_s0", "timm's", TINY, (1, 2), saved=1.0, note="timm is not installed")
    figures = bench.targets(row, "cpu")
    assert [figure.reached for figure in figures] == [None, None]
    assert all(
        line.endswith("\n    timm is not installed") and "not measured" in line
        for line in map(Measurement.line, figures)
    )


def test_every_norm_reaches_its_target_of_memory(monkeypatch):
    """Bytes are the same on any machine; times are not, and are never asserted."""
    monkeypatch.setattr(
        layers, "time_in_turn", lambda steps, rounds, enough: dict.fromkeys(steps, Times((1.0,), (2.0,)))
    )
    rows = list(bench.measure_layers(shape=(16, 64, 16, 16)))
    figures = [figure for row in rows for figure in bench.targets(row, "cpu") if figure.name.endswith(", saved")]
    assert {figure.name.partition(",")[0] for figure in figures} == set(normzoo.list_norms(fused=False))
    assert not [figure.line() for figure in figures if figure.reached is False]
    unknown = [figure.name.partition(",")[0] for figure in figures if figure.reached is None]
    assert not unknown or importlib.util.find_spec("timm") is None


def test_a_package_that_is_not_there_is_noted(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (row,) = bench.measure_layers(["evo_norm_s1"], TINY, rounds=1)
    assert row.note == "timm is not installed (pip install timm)"
    assert row.forward is row.both is row.saved_against is None
    assert row.saved > 0
    assert row.milliseconds


def test_a_shape_that_a_norm_does_not_take_is_noted():
    left_out, alone = bench.measure_layers(["instance_norm", "batch_renorm"], (4, 8), rounds=1)
    assert left_out.note.startswith("skipped: ")
    assert left_out.milliseconds is None
    assert alone.note.startswith("not compared: expected 4D input")
    assert alone.milliseconds
    assert alone.both is None


def test_an_option_that_must_be_given_is_noted():
    @normzoo.register("needs_more_of_the_bench", batch_dependent=False)
    def needs_more(num_features: int, *, flavour: str) -> nn.Module:
        return nn.Identity()

    try:
        (row,) = bench.measure_layers(["needs_more_of_the_bench"], TINY, rounds=1)
        assert row.note == "skipped: cannot be built without flavour"
    finally:
        normzoo.registry._forget("needs_more_of_the_bench")


def test_a_compiler_that_is_not_there_is_noted(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no compiler\nand more lines")

    monkeypatch.setattr(torch, "compile", lambda layer, **_: refuse)
    (row,) = bench.measure_layers(["layer_norm"], TINY, rounds=1, compile=True)
    assert row.note == "not compiled: no compiler"
    assert row.both
    assert row.compiled_both is None


def test_compiled_beside_eager(monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda layer, **options: compile(layer, backend="aot_eager", **options))
    (row,) = bench.measure_layers(["layer_norm_scratch"], TINY, rounds=1, compile=True)
    assert row.note == ""
    assert row.compiled_forward.median > 0
    assert row.compiled_both.median > 0
    assert row.compiled_saved > 0


def test_the_command_compiles_all_before_it_measures(monkeypatch, capsys):
    order = []

    def compile_ahead(cases, threads):
        yield from (order.append(f"{case.title} {threads}") or case.title for case in cases)

    def measured(case, rounds, compile):
        order.append(f"{case.title} measured {compile}")
        return bench.LayerRow(case.title, "it", TINY)

    monkeypatch.setattr(bench_command, "compile_ahead", compile_ahead)
    monkeypatch.setattr(layers, "_measure", measured)
    cli.main(["bench", "layers", "--norms", "rms_norm", "--shape", "2,8,4,4", "--compile"])
    assert order == ["rms_norm 1", "rms_norm, tokens 1", "rms_norm measured True", "rms_norm, tokens measured True"]
    assert "compiled: forward" in capsys.readouterr().out


CANNOT_AND_CAN = [Case("instance_norm", (2, 8, 1, 1)), Case("layer_norm", TINY)]


def test_what_cannot_be_compiled_ahead_stops_no_other(monkeypatch):
    seen = []
    monkeypatch.setattr(compiled, "ProcessPoolExecutor", lambda processes, _: ThreadPoolExecutor(processes))
    monkeypatch.setattr(torch, "compile", lambda layer, **_: lambda x: seen.append(x.shape) or layer(x))
    titles = list(compiled.compile_ahead(CANNOT_AND_CAN, torch.get_num_threads(), processes=1))
    assert sorted(titles) == ["instance_norm", "layer_norm"]
    assert seen == [(2, 8, 1, 1), TINY]


@pytest.mark.slow
def test_what_a_process_has_compiled_ahead_is_on_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert len(list(compiled.compile_ahead(CANNOT_AND_CAN, torch.get_num_threads(), processes=1))) == 2
    assert any((tmp_path / "fxgraph").iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"norms": ["no_such_norm"]}, "unknown norm 'no_such_norm'"),
        ({"shape": (8,)}, "the shape needs N, C and positions"),
        ({"shape": (8, 0)}, "at least 1"),
        ({"rounds": 0}, "0 rounds"),
        ({"device": "cuda"}, "torch finds no CUDA device"),
    ],
)
def test_refuses_before_it_measures(monkeypatch, arguments, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(normzoo.UserError, match=said):
        bench.measure_layers(**arguments)


def test_command_prints_a_table_and_writes_the_figures(tmp_path, capsys):
    file = tmp_path / "new" / "figures.json"
    threads = torch.get_num_threads()
    command = ["layers", "--norms", "GN", "evo_norm_b0", "--shape", "4,8,6,6", "--rounds", "2", "--json", str(file)]
    cli.main(["bench", *command])
    assert torch.get_num_threads() == threads
    printed, closing = (part.splitlines() for part in capsys.readouterr().out.rsplit("\n\n", 1))
    figures = json.loads(file.read_text())
    assert f"torch {torch.__version__}" in printed[0]
    assert f"1 of {os.cpu_count()} threads" in printed[0]
    assert printed[1] == "input 4×8×6×6, float32, at least 2 rounds"
    assert [line.split()[0] for line in printed[-3:]] == ["norm", "group_norm", "evo_norm_b0"]
    assert "compiled" not in printed[-3]
    assert f"{figures['rows'][0]['both']['median']:.2f} (" in printed[-2]
    assert figures["rounds"] == 2
    assert figures["rows"][1]["against"] == "timm EvoNorm2dB0"
    assert figures["machine"].keys() >= {"device", "threads", "torch"}
    names = [
        "group_norm, forward",
        "group_norm, forward+backward",
        "evo_norm_b0, forward+backward",
        "evo_norm_b0, saved",
    ]
    assert [figure["name"] for figure in figures["targets"]] == names
    assert all(line.startswith(name) for line, name in zip(closing, names, strict=False))
    assert closing[4] == f"{sum(figure['reached'] for figure in figures['targets'])} of 4 targets reached"
    missed = [f"NOT reached: {figure['name']}" for figure in figures["targets"] if not figure["reached"]]
    assert closing[5 : 5 + len(missed)] == missed


@pytest.mark.parametrize("extra", [True, False], ids=["with psutil", "without"])
def test_work_of_others_is_told_of_the_rows_it_disturbed(tmp_path, capsys, monkeypatch, extra):
    """A load that an earlier run has left is no sign of it; without psutil it is all there is to tell by."""
    taken = iter([0.0, 1.2])
    others = types.SimpleNamespace(OtherLoad=lambda: types.SimpleNamespace(cores=lambda: next(taken)))
    monkeypatch.setitem(sys.modules, "normzoo.bench.other_load", others if extra else None)
    monkeypatch.setattr(bench_command, "load", lambda: 2.0)
    file = tmp_path / "figures.json"
    cli.main(["bench", "layers", "--norms", "GN", "LN", "--shape", "4,8,6,6", "--rounds", "1", "--json", str(file)])
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith(": layer_norm" if extra else "the machine was busy (load 2.0); do not trust the times")
    rows = json.loads(file.read_text())["rows"]
    assert [row["cores_taken_by_others"] for row in rows[:2]] == ([0.0, 1.2] if extra else [None, None])


def test_a_long_note_is_cut_in_the_table_alone(capsys):
    cli.main(["bench", "layers", "--norms", "instance_norm", "--shape", "4,8,1,1", "--rounds", "1"])
    assert any(line.endswith("…") for line in capsys.readouterr().out.splitlines())
    (row,) = bench.measure_layers(["instance_norm"], (4, 8, 1, 1), rounds=1)
    assert row.note.endswith("group_norm")


def test_command_hangs_under_another():
    """As `normzoo bench` hangs it under `normzoo`."""
    parser = argparse.ArgumentParser()
    bench_command.add_arguments(parser)
    chosen = parser.parse_args(["layers", "--norms", "BN", "--compile"])
    assert (chosen.norms, chosen.shape, chosen.rounds, chosen.compile) == (["BN"], (32, 64, 28, 28), 8, True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--shape", "4,x"], "expected a shape such as 32,64,28,28"),
        (["--shape", "4"], "the shape needs N, C and positions"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--norms", "BNN"], "did you mean"),
    ],
)
def test_what_the_user_can_mend_ends_with_code_2(capsys, wrong, said):
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "layers", *wrong])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_file_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = ["layers", "--norms", "identity", "--shape", "2,8", "--rounds", "1"]
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", *command, "--json", str(tmp_path / "file" / "figures.json")])
    assert end.value.code == 2
    assert "choose another file for --json" in capsys.readouterr().err


@pytest.mark.gpu
def test_on_a_gpu():
    (row,) = bench.measure_layers(["batch_norm"], TINY, rounds=2, device="cuda")
    assert row.both.median > 0
    assert bench.machine("cuda")["device"] == torch.cuda.get_device_name()
