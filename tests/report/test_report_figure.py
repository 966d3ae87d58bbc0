"""What is drawn where: names of any length, sweeps that measured nothing, bars and seeds."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from normzoo.report import report
from normzoo.report.figure import LOOKS, caption, draw_on
from normzoo.report.frame import build_table
from normzoo.report.panels import build_panels
from normzoo.report.style import norm_style
from normzoo.report.sweep_axes import over_batches
from normzoo.report.sweep_panels import varied_panels
from normzoo.results import CellResult

Maker = Callable[..., CellResult]
Sweep = Callable[[list[CellResult]], Path]

LONG = {"schedule_of_the_learning_rate_with_a_long_name": "cosine_with_restarts_and_warmup", "another_long_one": "yes"}


def drawn(cells: list[CellResult]) -> Any:
    figure = Figure()
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(LOOKS):
        draw_on(figure, build_table(cells))
    return figure


def test_long_names_stay_in_their_place(cell: Maker) -> None:
    """Titles within their panel, beside the letter of the next, and everything on the page."""
    options = [
        {"optimizer": {"lr": 0.1, "base_lr": 0.1, **changed}} for changed in ({}, LONG, {**LONG, "more": "x" * 90})
    ]
    cells = [
        cell(norm, batch, config=more) for norm in ("batch_norm", "identity") for batch in (2, 8) for more in options
    ]
    ranked = [
        cell(norm, config={"model": {"name": model}, **more})
        for norm in ("a" * 90, "b")
        for model in "cd"
        for more in options
    ]
    for found in (cells, ranked):
        figure = drawn(found)
        page = figure.bbox
        for axes in figure.axes:
            everything = axes.get_tightbbox()
            assert everything.x0 >= page.x0
            assert everything.x1 <= page.x1
            assert everything.y1 <= page.y1
            title = axes.get_legend().get_title()
            assert re.match("([A-D]   )?(Batch size|Values|By )", title.get_text())
            assert title.get_window_extent().x1 <= axes.get_window_extent().x1 + 1
            assert axes.get_window_extent().width > 0.2 * page.width


def test_a_sweep_that_diverged_whole_has_no_axis_of_errors(cell: Maker, sweep: Sweep) -> None:
    for config in ({}, {"optimizer": {"base_lr": 0.1}}):
        cells = [
            cell(norm, batch, seed, None, status="diverged", reason="the loss was not finite", config=config)
            for norm in ("batch_norm", "identity")
            for batch in ((2, 8) if not config else (8,))
            for seed in (0, 1)
        ]
        made = report(sweep(cells))
        assert "mean ± std over 2 seeds" in made.table
        assert "over 2 seeds unless noted" in made.summary.read_text()
        (axes,) = drawn(cells).axes
        (said_there,) = [text for text in axes.texts if "diverged" in text.get_text()]
        assert said_there.get_text() == "no error: every cell diverged or died"
        assert not len((axes.yaxis if not config else axes.xaxis).get_ticklocs())


def test_bars_end_at_the_axis_and_seeds_are_seen(cell: Maker) -> None:
    """Two seeds far apart: below the lower one the bar goes on out of a logarithmic axis."""
    cells = [
        cell(norm, batch, seed, errors[seed])
        for norm, errors in (("batch_norm", (1.0, 19.0)), ("identity", (1.5, 1.7)))
        for batch in (2, 8)
        for seed in (0, 1)
    ]
    (axes,) = drawn(cells).axes
    low, high = axes.get_ylim()
    assert axes.get_yscale() == "log"
    bars = [collection for collection in axes.collections if isinstance(collection, LineCollection)]
    assert all(bar.get_clip_on() for bar in bars)
    assert len([segment for bar in bars for segment in bar.get_segments()]) == 4
    points = [(line, value) for line in axes.lines for value in line.get_ydata()]
    assert all(low <= value <= high for line, value in points if not line.get_clip_on())
    seeds = [value for line, value in points if line.get_marker() == "o" and line.get_markersize() < 3]
    assert sorted(seeds) == sorted([1.0, 19.0, 1.5, 1.7] * 2)
    caps = [value for line, value in points if line.get_marker() == "_"]
    assert len([value for value in caps if low <= value <= high]) == 6  # two lower ones are beyond
    assert "without a lower cap" in caption(build_table(cells), build_panels(build_table(cells)))


def test_lines_of_other_devices_have_another_colour_and_marker(cell: Maker) -> None:
    cells = [
        cell(norm, batch, error=5.0 + batch, config={"trainer": {"devices": devices}})
        for norm in ("batch_norm", "group_norm", "a_norm_of_tomorrow")
        for batch in (2, 8)
        for devices in (1, 2, 4)
    ]
    for one in cells:
        one.world_size = one.config["trainer"]["devices"]
    (panel,) = [panel for panel in build_panels(build_table(cells)) if panel.title == "Batch size"]
    styles = {curve.style.name: (curve.style.color, curve.style.marker) for curve in panel.curves}
    assert len(styles) == len(set(styles.values())) == 9
    for norm in ("BatchNorm", "GroupNorm", "a_norm_of_tomorrow"):
        one, two, four = (styles[f"{norm}, {devices}"] for devices in ("1 device", "2 devices", "4 devices"))
        assert one == (norm_style(norm_of(norm)).color, norm_style(norm_of(norm)).marker)
        assert len({one[0], two[0], four[0]}) == len({one[1], two[1], four[1]}) == 3


def norm_of(name: str) -> str:
    return {"BatchNorm": "batch_norm", "GroupNorm": "group_norm"}.get(name, name)


@pytest.mark.parametrize("errors", [(97.0, 99.0), (100.0, 100.0), (0.5, 99.9), (60.0, 85.0), (0.0, 0.0)])
def test_no_axis_of_errors_goes_beyond_all(errors: tuple[float, float], cell: Maker) -> None:
    """Neither for bars, nor for chance, a legend or an inset; and the legend is above the axes."""
    norms = [f"norm_{i}_of_many_with_a_long_name" for i in range(14)]
    batches = [cell(norm, b, s, errors[s]) for norm in norms for b in (2, 8) for s in (0, 1)]
    arm = [cell("ghost_batch_norm", 64, s, errors[s], group_size=g, image_size=16) for g in (2, 8) for s in (0, 1)]
    ranked = [cell(norm, error=error, placement=p) for norm in norms for p, error in zip("ab", errors, strict=True)]
    own = {"name": "own", "num_classes": 500}
    many = [
        cell(norm, error=errors[s], seed=s, config={"data": own, "optimizer": {"lr": r}})
        for norm in norms[:2] for r in (1, 2, 8) for s in (0, 1)
    ]  # fmt: skip
    for cells in (batches, [*batches, *arm], arm, ranked, many):
        figure = drawn(cells)
        for axes in figure.axes:
            limits = axes.get_xlim() if "error" in axes.get_xlabel() else axes.get_ylim()
            assert 0 <= limits[0] < limits[1] <= 100
            box = axes.get_legend().get_window_extent()
            assert box.y0 >= axes.get_window_extent().y1 - 1
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1


def test_panels_of_some_settings_say_so(cell: Maker) -> None:
    def said(cells: list[CellResult]) -> str:
        table = build_table(cells)
        return caption(table, build_panels(table) if over_batches(table) else varied_panels(table))

    rates = [{"optimizer": {"lr": 0.1 * 2**i}} for i in range(9)]
    assert "3 of 9 settings shown" in said([cell(batch=b, config=config) for config in rates for b in (2, 8)])
    assert "settings shown" not in said([cell(batch=b, config=config) for config in rates[:3] for b in (2, 8)])
    arms = [cell("ghost_batch_norm", 64, group_size=g, config=c) for g in (2, 8) for c in rates[:4]]
    assert "2 of 4 settings shown" in said(arms)
    placed = [cell(batch=b, placement=p, config=c) for b in (2, 8) for p in ("none", "pre_act") for c in rates[:2]]
    assert "1 of 2 settings shown" in said(placed)
    lines = [cell(f"norm_{i}", error=5.0 + i, config=config) for i in range(30) for config in rates[:3]]
    assert "24 of 30 lines shown" in said(lines)
    ranked = [cell(f"norm_{i}", error=5.0 + i) for i in range(70)]
    assert "60 of 70 shown" in said(ranked)


def test_numbers_next_to_each_other_are_ranked(cell: Maker) -> None:
    """Their names would lie upon each other."""
    near = [cell(norm, config={"optimizer": {"lr": lr}}) for norm in "ab" for lr in (0.12345678, 0.12345679, 0.2)]
    (panel,) = varied_panels(build_table(near))
    assert list(panel.names) == ["a", "b"]
    assert [curve.style.name for curve in panel.curves] == [
        "optimizer.lr=0.12345678", "optimizer.lr=0.12345679", "optimizer.lr=0.2"
    ]  # fmt: skip
