"""Advice follows the measured figures, whatever they are."""

import dataclasses
import json
from importlib.resources import files

import pytest
from torch import nn

import normzoo
from normzoo.surgery import advise as module
from normzoo.surgery.advise import advise

SHIFTS = ("none", "mild", "strong")


def figure(action, error, *, shift="strong", batch=2, std=0.5, source="fine_tuning"):
    return {"source": source, "shift": shift, "action": action, "batch": batch, "error": error, "std": std, "seeds": 3}


def ranked(monkeypatch, *figures, **options):
    measured = {name: {"command": f"normzoo train {name}"} for name in ("fine_tuning", "small_batch")}
    monkeypatch.setattr(module, "evidence", lambda: {"measured": measured, "figures": figures})
    options = {"batch_size_per_device": 2, "pretrained": True, "shifted": "strong"} | options
    return advise(options.pop("model", "batch_norm"), **options)


def actions(*arguments, **options):
    return [row.action for row in ranked(*arguments, **options)]


def test_other_figures_give_another_ranking(monkeypatch):
    names = ("keep", "freeze", "batch_renorm", "group_norm")
    for turn in range(4):
        errors = dict(zip([*names[turn:], *names[:turn]], (10.0, 20.0, 30.0, 40.0), strict=True))
        assert actions(monkeypatch, *(figure(*item) for item in errors.items())) == list(errors)


def test_what_is_as_good_comes_in_the_order_of_its_effort(monkeypatch):
    figures = [figure("group_norm", 10.0), figure("freeze", 10.3), figure("keep", 10.4), figure("batch_renorm", 10.6)]
    rows = ranked(monkeypatch, *figures)
    assert [(row.action, row.as_good) for row in rows] == [
        ("keep", True), ("freeze", True), ("group_norm", True), ("batch_renorm", False),
    ]  # fmt: skip


def test_the_nearest_batch_size_and_the_shift_decide(monkeypatch):
    figures = [
        figure("keep", 30.0),
        figure("freeze", 20.0),
        figure("keep", 10.0, batch=32),
        figure("freeze", 20.0, batch=32),
        figure("recalibrate_only", 25.0, batch=None),
        figure("keep", 1.0, shift="mild"),
    ]
    assert actions(monkeypatch, *figures) == ["freeze", "recalibrate_only", "keep"]
    assert actions(monkeypatch, *figures, batch_size_per_device=256) == ["keep", "freeze", "recalibrate_only"]
    assert actions(monkeypatch, *figures, shifted="mild") == ["keep"]
    rows = ranked(monkeypatch, *figures, devices=16)
    assert (rows[0].action, rows[0].batch_size) == ("sync_batch_norm", 32)
    assert actions(monkeypatch, *figures, model="sync_batch_norm", devices=16)[0] == "keep"


def test_without_pretraining_the_norms_are_compared(monkeypatch):
    options = {"shift": "", "source": "small_batch"}
    figures = [figure("batch_norm", 50.0, **options), figure("group_norm", 7.0, **options), figure("keep", 1.0)]
    assert actions(monkeypatch, *figures, pretrained=False) == ["group_norm", "keep"]
    assert actions(monkeypatch, *figures, pretrained=False, model="group_norm") == ["keep", "batch_norm"]
    assert actions(monkeypatch, *figures, pretrained=False, model="online_norm") == ["group_norm", "batch_norm", "keep"]


def test_what_was_not_measured_is_kept_and_said(monkeypatch):
    rows = ranked(monkeypatch, figure("keep", 1.0), model="group_norm")
    assert [(row.action, row.error) for row in rows] == [("keep", None)]
    assert "not measured" in str(rows)


def test_a_model_has_the_norm_of_most_of_its_layers():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3), nn.LayerNorm(3))
    assert advise(model, batch_size_per_device=2).situation.startswith("batch_norm, trained from the start at batch 2")


def test_it_prints_as_a_table_that_tells_how_it_was_measured():
    rows = normzoo.advise("batch_norm", batch_size_per_device=2, pretrained=True, shifted="strong")
    said = str(rows)
    assert rows.as_dicts() == [dataclasses.asdict(row) for row in rows]
    for row in rows:
        assert row.how in said
        assert f"{row.error:.1f} ± {row.std:.1f} %" in said
    assert "normzoo train -m experiment=fine_tuning" in said
    assert "3 seeds" in said


def test_at_a_large_batch_batch_norm_is_kept():
    assert advise("batch_norm", batch_size_per_device=256)[0].action == "keep"


def test_the_evidence_names_its_command_seeds_hardware_and_versions():
    found = json.loads(files("normzoo.surgery").joinpath("evidence.json").read_text(encoding="utf-8"))
    assert found["command"].startswith("python scripts/make_evidence.py")
    assert set(found["measured"]) == {row["source"] for row in found["figures"]}
    for measured in found["measured"].values():
        assert set(measured) == {"command", "nets", "seeds", "hardware", "versions"}
    assert all(row["seeds"] >= 3 for row in found["figures"])
    assert {row["shift"] for row in found["figures"]} == {"", *SHIFTS}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_size_per_device": 0}, "batch_size_per_device=0 must be a positive integer"),
        ({"devices": True}, "devices=True must be a positive integer"),
        ({"shifted": "much"}, "unknown shifted='much'; choose from none, mild, strong"),
        ({"model": nn.Linear(2, 2)}, "Linear has no norm that can be identified"),
        ({"model": "bathc_norm"}, "did you mean"),
    ],
)
def test_bad_requests_are_one_clear_error(monkeypatch, wrong, said):
    with pytest.raises(normzoo.UserError, match=said):
        ranked(monkeypatch, **wrong)
