"""Learning curves: validation error by epoch, with spread over seeds, in every report on cells of several epochs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normzoo.report import report
from normzoo.report.curves import curve_panels
from normzoo.report.figure import caption
from normzoo.report.frame import build_table
from normzoo.results import CellResult

Maker = Callable[..., CellResult]
Sweep = Callable[[list[CellResult]], Path]


@pytest.fixture
def trained(cell: Maker) -> Callable[..., CellResult]:
    """Make a cell whose error is halved by each epoch, and is larger by 1 with each seed."""

    def make(*args: Any, seed: int = 0, epochs: int = 3, **options: Any) -> CellResult:
        made = cell(*args, seed=seed, **options)
        made.curve = [{"epoch": e + 1.0, "step": 10.0, "val_error_running": 40 / 2**e + seed} for e in range(epochs)]
        return made

    return make


def test_a_report_has_the_learning_curves_of_each_batch_size(trained: Maker, sweep: Sweep) -> None:
    cells = [trained(norm, batch, seed=s) for norm in ("batch_norm", "identity") for batch in (2, 8) for s in (0, 1)]
    panels = curve_panels(build_table(cells))
    assert [panel.title for panel in panels] == ["Batch size 2", "Batch size 8"]
    assert [curve.style.name for curve in panels[0].curves] == ["BatchNorm", "no norm"]
    points = panels[0].curves[0].points
    assert [(epoch, stat.mean, stat.n) for epoch, stat in points] == [(1, 40.5, 2), (2, 20.5, 2), (3, 10.5, 2)]
    assert "bands: ±" in caption(build_table(cells), panels)

    made = report(sweep(cells))
    folder = made.png.parent
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "![Validation error by epoch](curves.png)" in made.summary.read_text()
    assert made.page.read_text().count("<svg") == 2
    assert str(folder / "curves.svg") in made.text


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_report_without_several_epochs_has_none(epochs: int, trained: Maker, sweep: Sweep) -> None:
    folder = sweep([trained(batch=batch, epochs=epochs) for batch in (2, 8)])
    (folder / "curves.png").touch()  # of an earlier report
    made = report(folder)
    assert not (folder / "curves.png").exists()
    assert "curves" not in made.summary.read_text()


def test_any_sweep_has_curves_by_what_it_varied(trained: Maker) -> None:
    rates = [trained(norm, config={"optimizer": {"lr": r}}) for norm in ("batch_norm", "identity") for r in (0.1, 0.2)]
    assert [panel.title for panel in curve_panels(build_table(rates))] == ["optimizer.lr=0.1", "optimizer.lr=0.2"]
    norms = [trained(norm) for norm in ("batch_norm", "identity")]
    (panel,) = curve_panels(build_table(norms))
    assert (panel.title, len(panel.curves)) == ("Learning curves", 2)


def test_many_panels_and_curves_are_thinned_out_and_it_is_said(trained: Maker) -> None:
    cells = [trained(f"norm_{i}", batch) for i in range(20) for batch in (2, 4, 8, 16, 32, 64)]
    panels = curve_panels(build_table(cells))
    assert [panel.title.removeprefix("Batch size ") for panel in panels] == ["2", "8", "16", "64"]
    assert panels[0].note == "16 of 20 curves shown; 4 of 6 panels shown"


def test_a_diverged_cell_has_its_curve_up_to_there(trained: Maker) -> None:
    cells = [trained(batch=b, seed=s, epochs=3 - s, status="diverged" if s else "ok") for b in (2, 8) for s in (0, 1)]
    (first, _) = curve_panels(build_table(cells))
    assert [stat.n for _, stat in first.curves[0].points] == [2, 2, 1]
    lost = [trained(batch=b, status="killed") for b in (2, 8)]
    assert curve_panels(build_table(lost)) == []
