"""What an operation on a model's norms did is a table, data, and reversible once."""

import pytest
from torch import nn

from normzoo.surgery.report import Report, Row

ROWS = (
    Row("stem.bn", "BatchNorm2d", "group_norm", "converted"),
    Row("", "LayerNorm", "", "kept", "its outputs follow\none of none"),
)


def test_it_prints_as_a_table_of_one_line_a_layer():
    lines = str(Report(nn.Identity(), ROWS)).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["stem.bn", "BatchNorm2d", "group_norm", "converted"]
    assert lines[2].startswith("(model)")
    assert lines[3] == "1 converted, 1 kept"
    assert str(Report(nn.Linear(1, 1), (), title="norm")) == "Linear holds no norm"


def test_it_is_data():
    report = Report(nn.Identity(), ROWS)
    assert [row.name for row in report] == ["stem.bn", ""]
    assert report.as_dicts()[0] == {
        "name": "stem.bn",
        "was": "BatchNorm2d",
        "now": "group_norm",
        "action": "converted",
        "reason": "",
    }
    assert (len(report), report[1], report.counts()) == (2, ROWS[1], {"converted": 1, "kept": 1})


def test_it_is_undone_once_and_says_why_it_cannot_be():
    before, after, calls = nn.Identity(), nn.Identity(), []

    def undo():
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("later first")
        return before

    report = Report(after, ROWS, undo)
    with pytest.raises(ValueError, match="later first"):
        report.undo()
    assert report.model is after
    assert report.undo() is report.undo() is report.model is before
    assert len(calls) == 2
