"""Draw the figure, as PNG and SVG: panels with a caption made from the records."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from string import ascii_uppercase
from typing import Any

from normzoo.errors import UserError
from normzoo.report import provenance as describe
from normzoo.report.axes import draw_panel, has_dots, has_inset, height
from normzoo.report.checks import guessing
from normzoo.report.errors_axis import cut_off
from normzoo.report.frame import Table
from normzoo.report.panels import Panel, build_panels
from normzoo.report.sweep_axes import over_batches, pooled_text
from normzoo.report.sweep_panels import varied_panels

LOOKS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.2,
    "lines.markeredgewidth": 1.0,
    "legend.fontsize": 6.8,
    "legend.title_fontsize": 8.5,
    "legend.framealpha": 0.0,
    "legend.edgecolor": "none",
    "legend.handlelength": 2.6,
    "legend.labelspacing": 0.35,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "svg.hashsalt": "normzoo",
    "text.parse_math": False,  # a dollar in a name is a dollar
}
# Inches: a text-wide figure of two columns, or one panel of a column and a half.
_WIDE, _NARROW = 7.2, 4.6
_CAPTION_SIZE, _CAPTION_LINE = 6.4, 0.125


@contextmanager
def looks(**more: Any) -> Iterator[None]:
    """Give figures their common look, without warnings about characters that the font lacks."""
    import matplotlib

    chosen: Any = {**LOOKS, **more}
    with matplotlib.rc_context(chosen), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def draw_figure(table: Table, panels: Sequence[Panel] | None = None) -> tuple[bytes, bytes]:
    """Return the figure, or one of these panels, as PNG and as SVG.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "results.csv and summary.md are written, but the figure needs matplotlib; "
            'install it with `pip install "normzoo[sweep]"`.'
        ) from error
    with looks():
        # Figure and canvas directly, not through pyplot: no window, no state shared with the caller's own figures.
        figure = Figure()
        FigureCanvasAgg(figure)
        draw_on(figure, table, panels)
        png = saved(figure, "png", dpi=220, pil_kwargs={"compress_level": 3})  # as small as 6 makes it, in less time
        return png, saved(figure, "svg", metadata={"Date": None})


def draw_on(figure: Any, table: Table, panels: Sequence[Panel] | None = None) -> None:
    """Draw the panels and the caption on an empty figure, which takes the size they need."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if panels is None:
        panels = build_panels(table) if over_batches(table) else varied_panels(table)
    rows = _arranged(panels)
    columns = max((len(row) for row in rows), default=1)
    width = _WIDE if columns == 2 or any(map(_is_wide, panels)) else _NARROW
    lines = textwrap.wrap(caption(table, panels), int(width * 20.4))
    figure.set_layout_engine("none")
    figure.set_size_inches(width, 3.0)
    foot = {"x": 0.12 / width, "ha": "left", "fontsize": _CAPTION_SIZE, "linespacing": 1.2}
    figure.supxlabel("\n".join(lines), **foot)
    total = 0.2 + _CAPTION_LINE * len(lines)
    heights = [max(map(height, row)) for row in rows]
    # From wide axes the layout finds its way in one step: their legends fit.
    grid = figure.add_gridspec(max(len(rows), 1), columns, height_ratios=heights or None, left=0.01, right=0.99)
    letters, chance = iter(ascii_uppercase), chance_level(table)
    for number, row in enumerate(rows):
        above = 0.0
        for column, panel in enumerate(row):
            axes = figure.add_subplot(grid[number, column] if len(row) > 1 else grid[number, :])
            title = f"{next(letters)}   {panel.title}" if len(panels) > 1 else panel.title
            above = max(above, draw_panel(axes, panel, chance, title, width / len(row)))
        total += heights[number] + above + 0.5
    figure.set_size_inches(width, max(total, 1.0))
    if not panels:
        figure.text(0.5, 0.7, "no cell has a result yet", ha="center", color="#555555", fontsize=9)
        return
    # Once, and not as the figure's own layout, for which every file would be drawn twice.
    ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06, wspace=0.03, hspace=0.03).execute(figure)


def _arranged(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Arrange panels in rows of two; one with many lines takes a row of its own."""
    rows: list[list[Panel]] = []
    for panel in panels:
        if rows and len(rows[-1]) == 1 and not _is_wide(rows[-1][0]) and not _is_wide(panel):
            rows[-1].append(panel)
        else:
            rows.append([panel])
    return rows


def _is_wide(panel: Panel) -> bool:
    return len(panel.curves) > 12 or bool(panel.names)


def caption(table: Table, panels: Sequence[Panel]) -> str:
    """Describe what is drawn, on which data and model, over which seeds, on which hardware."""
    cells = table.cells
    seeds = {panel.seeds for panel in panels}
    all_seeds = f"; {seeds.pop() if seeds else describe.seeds(cells)}" if len(seeds) < 2 else ""
    notes = ["; ".join(filter(None, ("" if all_seeds else panel.seeds, panel.note))) for panel in panels]
    if len(panels) > 1:
        notes = [f"{letter}: {note}." for letter, note in zip(ascii_uppercase, notes, strict=False) if note]
    else:
        notes = [f"{note[0].upper()}{note[1:]}." for note in notes if note]
    drawn = []
    bands = any(curve.band for panel in panels for curve in panel.curves)
    if bands:
        drawn.append("Lines: mean; bands: ±\N{NO-BREAK SPACE}one sample standard deviation.")
    elif any(s.n > 1 for panel in panels for curve in panel.curves for _, s in curve.points):
        dots = "; dots: single seeds" if any(map(has_dots, panels)) else ""
        drawn.append(f"Markers: mean; bars: ±\N{NO-BREAK SPACE}one sample standard deviation{dots}.")
        if any(cut_off(panel.curves) for panel in panels):
            drawn.append("A bar without a lower cap extends below the axis.")
    if any(curve.lost for panel in panels for curve in panel.curves):
        edge = "right" if any(panel.names for panel in panels) else "upper"
        drawn.append(f"Crosses on the {edge} edge: cells that diverged or died.")
    for panel in panels:
        if panel.inset and has_inset(panel):
            notes.append(f"Inset, not measured here: {panel.inset.what} ({panel.inset.citation}).")
    if pools := pooled_text(table):
        notes.append(f"Cells of one line differ in {pools}.")
    return " ".join(
        [
            f"Validation error with running statistics of {describe.models(cells)}",
            f"on {describe.data(cells)}{all_seeds}.",
            *drawn,
            *notes,
            f"{describe.counts(table)}. Run on: {describe.hardware(cells)};",
            f"{describe.versions(cells, ('normzoo', 'torch'))}; {describe.time(cells)}.",
        ]
    )


def chance_level(table: Table) -> float | None:
    """Return the error of guessing, in percent, if all data sets have the same known number of classes."""
    levels = {guessing(record) for record in table.cells.record}
    return levels.pop() if len(levels) == 1 else None


def saved(figure: Any, kind: str, **options: Any) -> bytes:
    """Return the figure as a file of this kind."""
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, **options)
    return stream.getvalue()
