"""What is drawn where: names of any length, sweeps that measured nothing, bars and seeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normzoo.report import report
from normzoo.report.figure import LOOKS, caption, draw_on
from normzoo.report.panels import build_panels
from normzoo.report.table import build_table
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
            title = axes._left_title.get_window_extent()
            assert axes.get_title(loc="left").startswith(("Batch size", "Values", "By "))
            assert title.x1 <= axes.get_window_extent().x1 + 1
            assert axes.get_legend() is None or not title.overlaps(axes.get_legend().get_window_extent())
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
        assert "n = 2 seeds unless noted" in made.summary.read_text()
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
    bars = [line.get_ydata() for line in axes.lines if line.get_gid() == "bar"]
    assert len(bars) == 4
    assert min(min(bar) for bar in bars) == low
    points = [(line, value) for line in axes.lines for value in line.get_ydata()]
    assert all(low <= value <= high for _, value in points)
    seeds = [value for line, value in points if line.get_marker() == "o" and line.get_markersize() < 3]
    assert sorted(seeds) == sorted([1.0, 19.0, 1.5, 1.7] * 2)
    caps = [value for line, value in points if line.get_marker() == "_"]
    assert len(caps) == 6  # two lower ones are beyond
    assert "without a lower cap" in caption(build_table(cells), build_panels(build_table(cells)))
