"""`normzoo doctor`: of a cell, and of a model of one's own."""

import json

import pytest

from normzoo import cli

pytest.importorskip("hydra")


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = 0
        try:
            cli.main(["doctor", *arguments])
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))\n"
        "def with_sample():\n"
        "    return net(), torch.randn(4, 6)\n"
        "def with_optimizer():\n"
        "    return net(), torch.randn(4, 6), torch.optim.SGD(net().parameters())\n"
        "number = 3\n"
    )


def checks(out):
    return [finding["check"] for finding in json.loads(out)]


def test_a_cell_is_examined_by_its_overrides(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = ("data=synthetic", "data.image_size=8", "norm=batch_norm", "batch_size_per_device=2")
    code, out, err = run(*cell)
    assert (code, err) == (0, "")
    assert "57.7 ± 4.6 %" in out
    assert checks(run(*cell, "--json")[1]) == ["few_values", "few_values", "decayed"]
    assert checks(run(*cell, "norm=group_norm", "--json")[1]) == ["decayed"]
    assert list(tmp_path.iterdir()) == []


def test_a_callable_is_examined_with_options(run, own):
    assert checks(run("own_nets:net", "--sample", "4,6", "--json", "--batch-size-per-device=64")[1]) == ["useless_bias"]
    code, out, _ = run("own_nets:with_sample", "--batch-size-per-device", "1", "--json")
    assert code == 1
    assert checks(out)[0] == "one_value"
    assert "orphans" in checks(run("own_nets:with_optimizer", "--json")[1])
    assert "sync_batch_norm" in run("own_nets:with_sample", "--devices", "8")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("own_nets:net",), "give the shape of one, as in --sample"),
        (("own_nets:none", "--sample", "2,6"), "own_nets:none: AttributeError"),
        (("own_nets:number", "--sample", "2,6"), "own_nets:number: TypeError"),
        (("own_nets:net", "--sample", "2,7"), "Sequential cannot take the sample"),
        (("own_nets:net", "--sample", "2,0"), "invalid shape value"),
        (("own_nets:net", "model=mlp"), "takes own_nets:net alone"),
        (("model=mlp", "--devices", "2"), "--devices is for MODULE:CALLABLE"),
        (("norm=gruop_norm",), "did you mean group_norm"),
        (("batch_size_per_device=0",), "batch_size_per_device=0"),
        (("norm=batch_norm,group_norm",), "several values"),
    ],
)
def test_a_wrong_question_is_answered_on_one_line(run, own, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
