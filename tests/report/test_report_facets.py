"""Which cells make one line: those that differ in the abscissa and the seed, or else it is said what is pooled."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normzoo.report import report
from normzoo.report.figure import caption
from normzoo.report.frame import build_table
from normzoo.report.panels import build_panels
from normzoo.report.series import batch_lines
from normzoo.report.sweep_axes import axes_of, best, grid_of, pooled
from normzoo.results import CellResult

Maker = Callable[..., CellResult]
Sweep = Callable[[list[CellResult]], Path]
SGD = {"name": "sgd", "_target_": "torch.optim.SGD", "base_lr": 0.05, "momentum": 0.9}
ADAM = {"name": "adam", "_target_": "torch.optim.Adam", "base_lr": 0.001, "betas": [0.9, 0.999]}


def labels(cells: list[CellResult]) -> list[str]:
    return [setting.label for setting in build_table(cells).settings]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"optimizer": SGD}, {"optimizer": ADAM}),
        ({"optimizer": SGD}, {"optimizer": {**SGD, "base_lr": 0.1}}),
        ({"optimizer": SGD}, {"optimizer": {**SGD, "momentum": 0.0}}),
        ({"optimizer": SGD}, {"optimizer": {**SGD, "name": "sgd", "_target_": "mine.optim.SGD"}}),
        ({"trainer": {"precision": "32"}}, {"trainer": {"precision": 32}}),
        ({"a": {"b": "true"}}, {"a": {"b": True}}),
        ({"a": {"b": "[1, 2]"}}, {"a": {"b": [1, 2]}}),
        ({"a": {"b": {}}}, {"a": {"b": {"c": 1}}}),
        ({"augment": True}, {"augment": False}),
    ],
)
@pytest.mark.parametrize("along", ["batch", "seed"])
def test_settings_beside_other_batches_or_seeds_are_other_lines(
    first: dict[str, Any], second: dict[str, Any], along: str, cell: Maker
) -> None:
    """As of a report over two sweeps, one at 2 and 32 and the other at 4 and 8."""
    places = [{"batch": 2}, {"batch": 32}], [{"batch": 4}, {"batch": 8}]
    if along == "seed":
        places = [{"batch": b, "seed": 0} for b in (2, 32)], [{"batch": b, "seed": 1} for b in (2, 32)]
    cells = [cell(**at, config=config) for config, own in zip((first, second), places, strict=True) for at in own]
    table = build_table(cells)
    lines = [line for setting in table.settings for line in batch_lines(table, setting)]
    assert sorted(len(line.points) for line in lines) == [2, 2]
    assert all(point.stat and point.stat.n == 1 for line in lines for point in line.points)
    assert len(set(labels(cells))) == 2


@pytest.mark.parametrize("power", [1, 0.5, -0.5, -1])
def test_a_number_that_follows_the_batch_is_pooled_and_said(power: float, cell: Maker, sweep: Sweep) -> None:
    cells = [cell(batch=b, config={"optimizer": {"name": "sgd", "lr": 0.1 * b**power}}) for b in (2, 8, 32)]
    made = report(sweep(cells), width=200)
    assert len(labels(cells)) == 1
    table = build_table(cells)
    for text in (made.text, made.summary.read_text(), caption(table, build_panels(table))):
        assert "ells of one line differ in optimizer.lr (" in text
    zigzag = [cell(batch=b, config={"optimizer": {"name": "sgd", "lr": lr}}) for b, lr in ((2, 0.1), (4, 1), (8, 0.1))]
    assert len(labels(zigzag)) == 2


def test_where_cells_ran_is_pooled_and_said(cell: Maker) -> None:
    cells = [cell(batch=b, config={"trainer": {"threads": t, "accelerator": "cpu"}}) for b in (2, 8) for t in (1, 2)]
    assert pooled(build_table(cells)) == {"trainer.threads": [1, 2], "optimizer.lr": [0.05 * 2 / 32, 0.05 * 8 / 32]}
    models = [cell(config={"model": {"name": name, "depth": depth}}) for name, depth in (("a", 1), ("b", 2))]
    assert pooled(build_table(models)) == {}
    rates = [cell(config={"optimizer": {"lr": lr, "decay": lr / 7}}) for lr in (0.1, 0.2)]
    assert list(pooled(build_table(rates))) == ["optimizer.decay"]


def test_all_digits_of_a_number_are_told(cell: Maker, sweep: Sweep) -> None:
    rates = [cell(config={"optimizer": {"name": "sgd", "lr": lr}}, error=lr) for lr in (0.12345678, 0.12345679)]
    table = build_table(rates)
    assert grid_of(table).xs == [0.12345678, 0.12345679]
    found = best(table)
    assert found is not None
    assert found[0] == "optimizer.lr=0.12345678"
    made = report(sweep(rates), width=200)
    assert "0.12345678" in made.table
    assert "0.12345679" in made.table
    beside = [cell(batch=b, config={"optimizer": {"lr": lr}}) for b in (2, 8) for lr in (0.12345678, 0.12345679)]
    assert labels(beside) == ["lr=0.12345678", "lr=0.12345679"]


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        (({"optimizer": SGD}, {"optimizer": ADAM}), ["sgd", "adam"]),
        (({"optimizer": {"_target_": "torch.optim.SGD"}}, {"optimizer": {"_target_": "torch.optim.Adam"}}),
         ["SGD", "Adam"]),
        (({"optimizer": {"_target_": "a.SGD"}}, {"optimizer": {"_target_": "b.SGD"}}),
         ["optimizer._target_=a.SGD", "optimizer._target_=b.SGD"]),
        (({"callbacks": None}, {"callbacks": [{"_target_": "x.y.Swa"}]}), ["no callbacks", "callbacks=Swa"]),
        (({"a": {"decay": 1}, "b": {"decay": 1}}, {"a": {"decay": 2}, "b": {"decay": 1}},
          {"a": {"decay": 1}, "b": {"decay": 2}}),
         ["a.decay=1, b.decay=1", "a.decay=2, b.decay=1", "a.decay=1, b.decay=2"]),
        (({"optimizer": {**SGD, "momentum": 0.9}}, {"optimizer": {**SGD, "momentum": 0.5}}, {"optimizer": ADAM}),
         ["sgd, momentum=0.9", "sgd, momentum=0.5", "adam"]),
    ],
)  # fmt: skip
def test_labels_can_be_read(configs: tuple[dict[str, Any], ...], expected: list[str], cell: Maker) -> None:
    cells = [cell(batch=b, config=config) for config in configs for b in (2, 8)]
    assert sorted(labels(cells)) == sorted(expected)


def test_an_optimizer_without_a_name_is_told_by_its_class(cell: Maker) -> None:
    cells = [cell(config={"optimizer": {"_target_": f"torch.optim.{name}"}}, error=9) for name in ("SGD", "Adam")]
    table = build_table(cells)
    assert [axis.name for axis in axes_of(table)] == ["optimizer"]
    assert sorted(map(grid_of(table).label, grid_of(table).points)) == ["torch.optim.Adam", "torch.optim.SGD"]


def test_the_csv_has_every_setting_that_differs_and_the_optimizer_always(cell: Maker, sweep: Sweep) -> None:
    cells = [
        cell(config={"optimizer": SGD, "reason": "a"}),
        cell(config={"optimizer": {**ADAM, "lr": 0.002}, "reason": "b"}),
        cell(config={"optimizer": SGD, "trainer": {"devices": 2, "max_epochs": 3}, "widths": []}),
    ]
    with open(report(sweep(cells)).csv, newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {(row["optimizer"], row["lr"], row["epochs"]) for row in rows}
    assert found == {("sgd", "0.05", "2"), ("adam", "0.002", "2"), ("sgd", "0.05", "3")}
    assert {"widths", "config.reason", "trainer.devices", "optimizer.betas", "optimizer.base_lr"} <= set(rows[0])
    alone = report(sweep([cell()])).csv.read_text().splitlines()[0].split(",")
    assert {"optimizer", "lr", "epochs"} <= set(alone)


def test_lines_of_other_steps_and_devices_have_other_names(cell: Maker, sweep: Sweep) -> None:
    cells = [
        cell("ghost_batch_norm", batch, group_size=size, config={"trainer": {"devices": devices}})
        for batch in (32, 64)
        for size in (2, 4)
        for devices in (1, 2)
    ]
    for one in cells:
        one.world_size = one.config["trainer"]["devices"]
    names = [f"{k}, {batch} samples a step" for batch in (32, 64) for k in ("1 device", "2 devices")]
    for panel in build_panels(build_table(cells)):
        assert sorted(curve.style.name for curve in panel.curves) == sorted(f"Ghost BatchNorm, {n}" for n in names)
    made = report(sweep(cells), width=200)
    assert all(f"ghost_batch_norm, {name}" in made.table for name in names)


def test_a_value_of_several_lines_is_told_in_one(cell: Maker) -> None:
    cells = [cell(batch=b, config={"note": note}) for b in (2, 8) for note in ("a\nb", "a b", "a\x1b[31m")]
    assert sorted(labels(cells)) == ["note=a b", "note=a\\nb", "note=a\\x1b[31m"]
