"""`normzoo list` and `normzoo show`: as tables, for pipes and programs, and what they say to a wrong question."""

import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import normzoo
from normzoo import cli, plugins, registry
from normzoo.bench.measure import BUSY
from normzoo.commands import bench as bench_command
from normzoo.commands import show
from normzoo.commands.list import COLUMNS, FLAGS
from normzoo.errors import exit_with
from normzoo.norm_info import FACTS


@pytest.fixture
def run(capsys):
    """Run `normzoo ...` in this process; gives exit code, standard output and standard error."""

    def main(*arguments):
        code = 0
        try:
            cli.main(arguments)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return main


@pytest.fixture
def terminal(run, monkeypatch):
    """The lines that a terminal of this width is given."""

    def lines(width, *arguments):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(width))
        return run(*arguments)[1].splitlines()

    return lines


@pytest.fixture
def unregistered(monkeypatch):
    """What a test registers is gone after it."""
    for table in ("_infos", "_names"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def test_into_a_pipe_list_gives_a_norm_a_line(run):
    code, out, err = run("list")
    rows = [line.split("\t") for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [row[0] for row in rows] == normzoo.list_norms()
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert f"by tabs: {', '.join(COLUMNS)}." in " ".join(run("list", "--help")[1].split()), "there is no header"
    (row,) = (row for row in rows if row[0] == "group_norm")
    assert row[1:] == ["C/G, *", "no", "no", "no", normzoo.info("group_norm").paper]


@pytest.mark.parametrize(("fact", "so", "not_so"), [(fact, so, not_so) for fact, (so, _), (not_so, _) in FLAGS])
def test_each_flag_asks_for_its_fact(run, fact, so, not_so):
    for flag, value in ((so, True), (not_so, False)):
        names = [line.split("\t")[0] for line in run("list", flag)[1].splitlines()]
        assert names == normzoo.list_norms(**{fact: value})
    code, _, err = run("list", so, not_so)
    assert code == 2
    assert f"{not_so}: not allowed with argument {so}" in err


def test_facts_are_combined(run):
    out = run("list", "--batch-independent", "--no-state", "--kind", "layer", "--rank", "3", "--fused")[1]
    expected = normzoo.list_norms(batch_dependent=False, state=False, kind="layer", ranks=3, fused=True)
    assert [line.split("\t")[0] for line in out.splitlines()] == expected
    assert "group_norm" in expected


def test_where_no_norm_has_the_facts_nothing_is_listed_and_it_is_said(run):
    assert run("list", "--rank", "9") == (0, "", "no norm matches all options\n")
    assert run("list", "--rank", "9", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize("width", [20, 60, 80, 120, 300])
def test_the_table_fits_the_terminal(terminal, width):
    header, *rows = terminal(width, "list")
    assert [row.split(" ")[0].rstrip("…") for row in rows] == [name[: width - 1] for name in normzoo.list_norms()]
    assert all(len(line) <= width for line in (header, *rows))
    assert ("paper" in header) == (width >= 80)
    assert any(row.endswith("…") for row in rows) == (width in (20, 80, 120))
    if width >= 80:
        shown = COLUMNS if width >= 120 else [*COLUMNS[:2], "paper"]
        assert header.split("  ")[0] == "name"
        assert [column for column in COLUMNS if column in header] == list(shown)
        places = [header.index(column) for column in shown]
        assert all(row[place - 1] == " " != row[place] for row in rows for place in places[1:])


def test_json_holds_every_fact_of_every_norm(run):
    code, out, err = run("list", "--json")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    assert [norm["name"] for norm in listed] == normzoo.list_norms()
    for norm in listed:
        info = normzoo.info(norm["name"])
        assert set(norm) == {*FACTS, "name", "summary", "arguments", "file", "line"}
        assert norm["ranks"] == list(info.ranks)
        assert list(norm["arguments"]) == list(info.arguments)
        assert norm["summary"] == info.summary
        assert f"{info.build.__name__}(" in "".join(inspect.getblock(source_lines(norm["file"])[norm["line"] - 1 :]))
    assert json.loads(run("list", "--json", "--has-state")[1]) == [norm for norm in listed if norm["state"]]


def source_lines(file):
    return Path(file).read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.mark.parametrize("name", normzoo.list_norms())
def test_show_says_all_that_is_known(run, name):
    code, out, err = run("show", name)
    info = normzoo.info(name)
    assert (code, err) == (0, "")
    assert out.startswith(f"{name}\n\n{info.summary}\n")
    assert inspect.getdoc(info.build) in out
    facts = out.partition("\nFacts:\n")[2].partition("\n\nMeasured:\n")[0]
    said = dict(line.strip().split("  ", 1) for line in facts.splitlines())
    said = {title: value.strip() for title, value in said.items()}
    assert said["kind"] == info.kind
    assert said["paper"] == (info.paper or "-")
    assert said["batch-dependent"] == ("yes" if info.batch_dependent else "no")
    assert said["state"] == (", ".join(info.state) or "none")
    assert said["input dimensions"] == ", ".join(map(str, info.ranks))
    assert all(alias in said["aliases"] for alias in info.aliases)
    for argument, default in info.arguments.items():
        assert (argument if default is inspect.Parameter.empty else f"{argument}={default!r}") in said["arguments"]
    assert said["file"].startswith(f"{inspect.getsourcefile(info.build)}:")


def test_show_has_the_figures_of_a_bench_file_or_says_how_to_get_some(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show, "SHIPPED", tmp_path / "shipped")
    assert run("show", "GN")[1].endswith(
        "Measured:\n  nothing yet; to measure all norms here: normzoo bench layers --json runs/bench_layers.json\n"
    )
    bench = ["bench", "layers", "--norms", "rms_norm", "weight_norm", "--shape", "2,8,4,4", "--rounds", "2"]
    assert run(*bench, "--json", "runs/bench_layers.json")[0] == 0
    _, machine, *lines = run("show", "rms_norm")[1].partition("\nMeasured:")[2].splitlines()
    figures = json.loads((tmp_path / "runs" / "bench_layers.json").read_text())
    row = figures["rows"][0]
    assert figures["machine"]["device"] in machine
    assert lines[0] == "  rms_norm, input 2×8×4×4"
    assert f"{row['milliseconds'][0]:.3g} ms forward" in lines[1]
    assert f"time by that of nn.RMSNorm: forward {row['forward']['median']:.2f} (" in lines[2]
    assert f"of the input: {row['saved']:.2f}, nn.RMSNorm {row['saved_against']:.2f}" in lines[3]
    assert lines[4] == "  rms_norm, tokens, input 2×16×8"
    (saved,) = (each["median"] for each in figures["targets"] if each["name"] == "rms_norm, tokens, saved")
    assert lines[-1] == f"  target: rms_norm, tokens, saved ≤ 2 × the input, reached: {saved:.3g}"
    elsewhere = str((tmp_path / "runs").rename(tmp_path / "elsewhere") / "bench_layers.json")
    assert (
        f"not in {elsewhere}; normzoo bench layers --norms group_norm"
        in run("show", "group_norm", "--bench", elsewhere)[1]
    )


def test_show_has_the_figures_that_come_with_the_package_until_there_are_others(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show, "SHIPPED", tmp_path / "shipped")
    for file in ("shipped/cpu.json", "runs/bench_layers.json"):
        bench = ["bench", "layers", "--norms", "scale_norm", "--shape", "2,8,4,4", "--rounds", "2", "--json", file]
        assert run(*bench)[0] == 0
        figures = json.loads(Path(file).read_text())
        _, where, *lines = run("show", "scale_norm")[1].partition("\nMeasured:")[2].splitlines()
        machine = figures["machine"]
        for said in (machine["device"], f"{machine['threads']} of", machine["torch"], figures["date"], file):
            assert said in where
        assert f"of the input: {figures['rows'][0]['saved']:.2f}" in "".join(lines)
        again = "  to measure all norms here: normzoo bench layers --json runs/bench_layers.json"
        assert (lines[-1] == again) == (file == "shipped/cpu.json")


def test_figures_that_come_with_the_package_are_of_an_idle_machine_and_of_all_norms(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in show.SHIPPED.glob("*.json"):
        figures = json.loads(file.read_text())
        assert figures["load"] <= BUSY, f"{file} was measured while the machine was at work"
        assert {row["norm"].partition(",")[0] for row in figures["rows"]} == set(normzoo.list_norms())
        for name in normzoo.list_norms():
            assert figures["date"] in run("show", name)[1]


def test_a_file_that_is_no_bench_file_is_refused(run, tmp_path):
    missing, text, other = tmp_path / "none.json", tmp_path / "text.json", tmp_path / "other.json"
    text.write_text("text")
    other.write_text('{"rows": [3], "machine": {}}')
    for file, why in ((missing, "No such file"), (text, "something else"), (other, "something else")):
        code, out, err = run("show", "group_norm", "--bench", str(file))
        assert (code, out) == (2, "")
        assert err.startswith(f"error: no figures in {file}: ")
        assert why in err


def test_show_takes_aliases(run):
    assert run("show", "nn.GroupNorm") == run("show", "GN") == run("show", "group_norm")


def test_an_unknown_name_gets_the_nearest_on_one_line(run):
    code, out, err = run("show", "gruop")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown norm 'gruop'; did you mean group_norm")
    assert err.count("\n") == 1


def test_an_unknown_command_gets_the_nearest_on_one_line(run):
    assert run("lst") == (2, "", "error: unknown command 'lst'; did you mean list?\n")


@pytest.mark.parametrize("arguments", [("show",), ("list", "--rank", "four"), ("list", "--kind", "layers")])
def test_a_wrong_command_ends_with_its_usage(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: normzoo")


def test_what_has_no_docstring_no_source_and_odd_arguments_is_shown_too(run, unregistered):
    namespace = {"__name__": "typed_in", "nn": nn}
    exec("class Odd(nn.Identity):\n    def __init__(self, num_features, size, act=nn.ReLU): ...", namespace)
    normzoo.register("odd_norm", batch_dependent=True)(namespace["Odd"])
    namespace["Odd"].__doc__ = None
    out = run("show", "odd_norm")[1]
    assert "arguments              size, act=<class" in out
    assert "file                   unknown\n" in out
    (norm,) = (norm for norm in json.loads(run("list", "--json")[1]) if norm["name"] == "odd_norm")
    assert norm["arguments"] == {"size": {}, "act": {"default": repr(nn.ReLU)}}
    assert norm["file"] is norm["line"] is None


def test_a_broken_plugin_is_said_on_a_line_and_the_rest_listed(run, monkeypatch):
    def broken(*_):
        import warnings

        warnings.warn("the normzoo plug-in 'bad' did not load", stacklevel=1)

    monkeypatch.setattr(plugins, "load_plugins", broken)
    code, out, err = run("show", "group_norm")
    assert (code, out.split()[0]) == (0, "group_norm")
    assert set(err.splitlines()) == {"warning: the normzoo plug-in 'bad' did not load"}


def test_a_reader_that_has_enough_ends_it_quietly():
    program = "import sys; from normzoo.cli import main; sys.stdin.read(); main(['list', '--json'])"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate("", timeout=300)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("normzoo ", set(cli.COMMANDS)),
        ("normzoo", set(cli.COMMANDS)),
        ("normzoo li", {"list"}),
        ("normzoo show group_n", {"group_norm", "group_norm_scratch"}),
        ("normzoo show ", set(normzoo.list_norms())),
        ("normzoo report ", set()),
    ],
)
def test_tab_completion(run, monkeypatch, line, answers):
    monkeypatch.setenv("COMP_LINE", line)
    code, out, _ = run("-sc", "query=bash")
    assert (code, set(out.split())) == (0, answers)


def test_every_command_is_completed_and_described(run):
    said = run("--help")[1]
    assert all(f"  normzoo {command}" in said for command in cli.COMMANDS)
    refusal = run("unknown")[2]
    assert all(command in refusal for command in cli.COMMANDS)


@pytest.mark.parametrize(
    ("median", "said"), [(1.0517, "NOT reached: 1.052"), (1.0498, "reached: 1.05"), (1.2, "NOT reached: 1.2")]
)
def test_a_target_is_told_with_enough_digits_to_see_why(median, said):
    target = {"name": "group_norm, forward", "unit": "×", "target": 1.05, "median": median, "at_most": True}
    target["reached"] = median <= 1.05
    assert show._target(target) == f"target: group_norm, forward ≤ 1.05 ×, {said}"


def test_a_name_that_is_none_is_answered_with_those_alike_and_the_command(run):
    for name, guess in (("grop_norm", "did you mean group_norm or layer_norm? `"), ("nope", "unknown norm 'nope'; `")):
        code, _, err = run("show", name)
        assert code == 2
        assert guess in err
        assert "`normzoo list` lists all" in err
        assert "list_norms()" not in err
        with pytest.raises(normzoo.UnknownNormError, match=r"normzoo\.list_norms\(\) lists all") as refusal:
            normzoo.info(name)
        assert pickle.loads(pickle.dumps(refusal.value)).at_command_line == err.removeprefix("error: ").strip()


def test_the_command_line_prints_other_messages_as_they_are(capsys):
    with pytest.raises(SystemExit):
        exit_with(normzoo.UserError("a plug-in of which normzoo.list_norms() lists none"))
    assert capsys.readouterr().err == "error: a plug-in of which normzoo.list_norms() lists none\n"


@pytest.mark.parametrize("path", ["file/bench.json", "folder"])
def test_bench_rejects_a_file_that_cannot_be_written_before_it_measures(run, tmp_path, monkeypatch, path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(bench_command, "measure_layers", lambda *_, **__: pytest.fail("measured first"))
    code, out, err = run("bench", "layers", "--norms", "group_norm", "--json", str(tmp_path / path))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: cannot write {tmp_path / path}: ")
    assert err.endswith("; choose another file for --json\n")
