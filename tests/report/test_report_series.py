"""How cells fall into settings, lines and panels, and how these look."""

from collections.abc import Callable
from typing import Any

import pytest

from normzoo.report import provenance as describe
from normzoo.report.checks import run_checks
from normzoo.report.figure import caption, chance_level
from normzoo.report.frame import Table, build_table
from normzoo.report.panels import build_panels
from normzoo.report.series import (
    ERROR,
    Point,
    Stat,
    batch_lines,
    flat_references,
    normalization_lines,
    placement_lines,
    pooled_std,
    values_lines,
)
from normzoo.report.style import norm_style, placement_style
from normzoo.report.text import plain_table
from normzoo.results import CellResult

Maker = Callable[..., CellResult]


def over_all(table: Table, metric: str = ERROR) -> Stat | None:
    return Point(0, table.cells, range(len(table.cells))).over(metric)


def test_seeds_are_summarised_by_mean_and_sample_std(cell: Maker) -> None:
    table = build_table([cell(seed=seed, error=error) for seed, error in enumerate((7.0, 8.0, 9.0))])
    found = over_all(table)
    assert found is not None
    assert (found.mean, found.std, found.n) == (8.0, 1.0, 3)
    assert over_all(table, "no such metric") is None
    assert pooled_std(found, found) == 1.0
    single = Point(0, table.cells, [0]).stat
    assert single is not None
    assert single.std is None
    assert pooled_std(single) is None


def test_cells_that_share_a_seed_count_once(cell: Maker) -> None:
    cells = [cell(seed=0, error=e, config={"trainer": {"threads": t}}) for t, e in ((1, 7.0), (2, 9.0))]
    table = build_table(cells)
    assert len(table.settings) == 1
    found = over_all(table)
    assert found is not None
    assert found.values == (8.0,)


def test_whatever_differs_makes_a_setting_and_what_follows_the_batch_does_not(cell: Maker) -> None:
    table = build_table(
        [
            cell("batch_norm", batch, seed, config={"augment": augment})
            for batch in (2, 32)
            for seed in (0, 1)
            for augment in (True, False)
        ]
    )
    assert [setting.label for setting in table.settings] == ["augment=false", "augment=true"]
    assert "optimizer.lr" in table.differing


def test_one_setting_needs_no_label(cell: Maker) -> None:
    (setting,) = build_table([cell(), cell("group_norm", 2)]).settings
    assert setting.label == ""
    assert setting.title == "mnist5k at 8×8, plain_cnn"


def test_data_sets_are_told_apart_by_their_name(cell: Maker) -> None:
    data = {"image_size": 8, "train_size": 4000}
    table = build_table(
        [cell(config={"data": {"name": name, "_target_": f"x.{name}", **data}}) for name in ("digits", "mnist5k")]
    )
    assert {setting.label for setting in table.settings} == {"digits", "mnist5k"}


def test_variants_of_a_norm_are_lines_of_their_own(cell: Maker) -> None:
    cells = []
    for groups in (1, 8):
        for batch in (2, 32):
            one = cell("group_norm", batch)
            one.config["norm"] = {"name": "group_norm", "num_groups": groups}
            one.cell += str(groups)
            cells.append(one)
    table = build_table(cells)
    names = [line.variant for line in batch_lines(table, table.settings[0])]
    assert names == ["group_norm(num_groups=1)", "group_norm(num_groups=8)"]
    styles = {norm_style("group_norm", name).marker for name in names}
    assert len(styles) == 2


def test_what_was_refused_renames_nothing(cell: Maker) -> None:
    """Neither the norms that ran, nor their setting, nor is it judged."""
    ran = [cell(norm, batch, seed) for norm in ("batch_norm", "group_norm") for batch in (2, 32) for seed in (0, 1)]
    odd = {"norm": {"name": "group_norm", "num_groups": 7}}
    refused = [
        cell("group_norm", 2, status="refused", reason="8 channels, 7 groups", config=odd),
        cell("batch_norm", 32, status="refused", reason="lr", config={"optimizer": {"name": "sgd", "base_lr": -1}}),
    ]
    alone, beside = build_table(ran), build_table([*ran, *refused])
    assert run_checks(beside) == run_checks(alone)
    assert set(beside.cells.variant) == {"batch_norm", "group_norm", "group_norm(num_groups=7)"}
    assert [panel.title for panel in build_panels(beside)] == ["Batch size"]
    assert beside.settings[0].label == ""
    cells = build_table([*ran, cell("group_norm", 64, status="refused"), *refused]).cells
    assert list(cells.variant[cells.batch == 64]) == ["group_norm"]
    assert list(build_table(refused[:1]).cells.variant) == ["group_norm"]


def test_devices_are_lines_of_their_own(cell: Maker) -> None:
    cells = [cell("batch_norm", batch, config={"trainer": {"devices": k}}) for batch in (2, 32) for k in (1, 2)]
    for one in cells:
        one.world_size = one.config["trainer"]["devices"]
    table = build_table(cells)
    assert len(table.settings) == 1
    assert [line.devices for line in batch_lines(table, table.settings[0])] == [1, 2]


def test_the_arms_of_the_default_experiment_are_found(default_cells: list[CellResult]) -> None:
    table = build_table(default_cells)
    grid, soft = table.settings
    assert (grid.label, soft.label) == ("8×8", "16×16")
    assert table.partitioned == {"ghost_batch_norm"}
    assert table.batch_norms == {"batch_norm", "ghost_batch_norm"}
    assert table.main_placement(grid) == "pre_act"
    norms = [line.norm for line in batch_lines(table, grid)]
    assert norms == ["batch_norm", "group_norm", "layer_norm", "instance_norm", "identity"]
    placements = [line.placement for line in placement_lines(table, grid)]
    assert placements == ["pre_act", "post_act", "all_but_last", "last_only"]
    (arm,) = normalization_lines(table, soft)
    assert (arm.step_batch, [x for x, _ in arm.measured]) == (64, [2, 4, 8, 16, 32, 64])
    assert [line.norm for line in flat_references(table, soft, [64])] == ["group_norm", "instance_norm"]
    assert [(line.norm, line.setting.label, line.measured[0][0]) for line in values_lines(table)] == [
        ("batch_norm", "8×8", 2),
        ("ghost_batch_norm", "8×8", 2),
        ("ghost_batch_norm", "16×16", 8),
    ]
    panels = build_panels(table)
    assert [panel.title for panel in panels] == [
        "Batch size, 8×8",
        "Values per statistic",
        "Placement, 8×8",
        "Normalization batch, 16×16",
    ]
    text = caption(table, panels)
    for part in ("plain_cnn", "mnist5k at 8×8 and 16×16", "3 seeds (0–2)", "no machine (generated)", "InstanceNorm"):
        assert part in text


def test_placements_of_a_plain_batch_norm_are_found_too(cell: Maker) -> None:
    table = build_table([cell("batch_norm", b, placement=p) for b in (2, 32) for p in ("pre_act", "post_act")])
    assert [line.placement for line in placement_lines(table, table.settings[0])] == ["pre_act", "post_act"]
    assert [panel.title for panel in build_panels(table)] == ["Batch size", "Placement"]


def test_a_killed_cell_keeps_its_place_on_the_axis(cell: Maker) -> None:
    cells = [cell("ghost_batch_norm", 64, group_size=g) for g in (4, 8)]
    dead = cell("ghost_batch_norm", 64, group_size=2, status="killed")
    dead.normalization_batch, dead.values_per_statistic = None, {}
    table = build_table([*cells, dead])
    (line,) = normalization_lines(table, table.settings[0])
    assert line.points[0].missing == (("killed", 1),)
    assert [curve.lost for panel in build_panels(table)[:1] for curve in panel.curves] == [[2]]


def test_chance_is_known_only_where_the_classes_are(cell: Maker) -> None:
    assert chance_level(build_table([cell()])) == pytest.approx(90.0)
    config: dict[str, Any] = {"data": {"name": "image_folder", "image_size": 8}}
    assert chance_level(build_table([cell(config=config)])) is None


def test_looks_are_fixed_by_the_name() -> None:
    known = ("batch_norm", "group_norm", "layer_norm", "instance_norm", "identity", "ghost_batch_norm")
    assert len({norm_style(norm).color for norm in known}) == len(known)
    assert len({norm_style(norm).marker for norm in known}) == len(known)
    assert norm_style("a_norm_of_tomorrow") == norm_style("a_norm_of_tomorrow")
    twin = norm_style("group_norm_scratch")
    assert (twin.color, twin.filled) == (norm_style("group_norm").color, False)
    assert placement_style("pre_act(where=[0, 2])").color == placement_style("pre_act").color


def test_tables_keep_their_shape() -> None:
    plain = plain_table(["norm", "2", "4", "8"], [["batch_norm", "60.0 ± 3.0", "8.0", "7.0"]], width=30)
    assert max(map(len, plain.splitlines())) <= 30
    assert plain.count("batch_norm") == 2


def test_the_caption_says_which_seeds_each_panel_has(cell: Maker) -> None:
    alike = [cell("batch_norm", b, seed) for b in (2, 32) for seed in range(3)]
    larger = [
        cell("ghost_batch_norm", 64, seed, group_size=g, image_size=16)
        for g in (2, 8)
        for seed in range(3 if g == 2 else 5)
    ]
    text = caption(build_table(alike), build_panels(build_table(alike)))
    assert "(4,000 training samples); 3 seeds (0–2)." in text
    table = build_table([*alike, *larger])
    text = caption(table, build_panels(table))
    assert "training samples)." in text
    assert "A: 3 seeds (0–2); placement pre_act." in text
    assert "5 seeds (0–4), 3 to 5 of them a point; 64 samples a step" in text
    assert describe.seeds_by_setting(table) == "8×8: 3 seeds (0–2); 16×16: 5 seeds (0–4)"
