"""The figure, as PNG and SVG: the panels on a page, with a caption made from the records."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from string import ascii_uppercase
from typing import Any

from normzoo.errors import UserError
from normzoo.report import provenance as describe
from normzoo.report.axes import MOST_DOTTED, draw_panel
from normzoo.report.chance import guessing
from normzoo.report.errors_axis import cut_off, top_with_inset
from normzoo.report.frame import Table
from normzoo.report.legend import legend_size
from normzoo.report.panels import Panel, build_panels
from normzoo.report.ranking import draw_ranking, ranking_size
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
_WIDTH, _ONE_WIDTH, _HEAD, _ROW, _GAP, _MARGIN = 7.2, 4.6, 0.3, 2.25, 0.62, (0.54, 0.12)
_CAPTION_SIZE, _CAPTION_LINE = 6.4, 0.125


@contextmanager
def looks(**more: Any) -> Iterator[None]:
    """Meanwhile matplotlib draws as all figures here look, and boxes, without a word, for what its font has not."""
    import matplotlib

    chosen: Any = {**LOOKS, **more}
    with matplotlib.rc_context(chosen), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def draw_figure(table: Table) -> tuple[bytes, bytes]:
    """The figure as PNG and as SVG.

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
        draw_on(figure, table)
        png = saved(figure, "png", dpi=220, pil_kwargs={"compress_level": 3})  # as small as 6 makes it, in less time
        return png, saved(figure, "svg", metadata={"Date": None})


def draw_on(figure: Any, table: Table) -> None:
    """Draw the panels and the caption on an empty figure, which takes the size they need."""
    panels = build_panels(table) if over_batches(table) else varied_panels(table)
    rows = _arranged(panels)
    columns = max((len(row) for row in rows), default=1)
    width = _WIDTH if columns == 2 or any(map(_is_wide, panels)) else _ONE_WIDTH
    left, right = _MARGIN
    lines = textwrap.wrap(caption(table, panels), int(width * 20.4))
    foot = 0.48 + _CAPTION_LINE * len(lines)
    shares = [(width - (left + right) * len(row)) / len(row) for row in rows]
    rooms = [[max(0.0, ranking_size(panel)[1] - left) if panel.names else 0.0 for panel in row] for row in rows]
    legends = [
        max(legend_size(panel, share - room)[0] for panel, room in zip(row, of_row, strict=True))
        for row, of_row, share in zip(rows, rooms, shares, strict=True)
    ]
    heights = [max(ranking_size(panel)[0] if panel.names else _ROW for panel in row) for row in rows]
    height = _HEAD + sum(heights) + sum(legends) + _GAP * max(len(rows) - 1, 0) + foot + (0.4 if not rows else 0.0)
    chance = chance_level(table)
    figure.set_layout_engine("none")  # every panel is put where it belongs
    figure.set_size_inches(width, height)
    letters, y = iter(ascii_uppercase), height - _HEAD + _GAP
    for row, row_height, above, share, of_row in zip(rows, heights, legends, shares, rooms, strict=True):
        y -= above + row_height + _GAP
        for i, (panel, room) in enumerate(zip(row, of_row, strict=True)):
            x = left + i * (share + left + right)
            axes = figure.add_axes(((x + room) / width, y / height, (share - room) / width, row_height / height))
            if panel.names:
                draw_ranking(axes, panel, chance, 72 * above)
            else:
                draw_panel(axes, next(letters) if len(panels) > 1 else "", panel, chance, 72 * above)
    if not panels:
        figure.text(0.5, 1 - 0.3 / height, "no cell has a result yet", ha="center", color="#555555", fontsize=9)
    figure.text(
        0.12 / width,
        0.06 / height,
        "\n".join(lines),
        fontsize=_CAPTION_SIZE,
        va="bottom",
        linespacing=_CAPTION_LINE * 72 / _CAPTION_SIZE / 1.165,
    )


def _arranged(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Panels in rows of two; one with many lines takes a row of its own."""
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
    """What is drawn, on which data and model, over which seeds, on which hardware."""
    cells = table.cells
    seeds = {panel.seeds for panel in panels}
    all_seeds = f"; {seeds.pop() if seeds else describe.seeds(cells)}" if len(seeds) < 2 else ""
    notes = [panel.note if all_seeds else f"{panel.seeds}; {panel.note}" for panel in panels]
    if len(panels) > 1:
        notes = [f"{letter}: {note}." for letter, note in zip(ascii_uppercase, notes, strict=False)]
    else:
        notes = [f"{note[0].upper()}{note[1:]}." for note in notes]
    drawn = []
    if any(s.n > 1 for panel in panels for curve in panel.curves for _, s in curve.points):
        dots = "; dots: single seeds" if any(_dotted(panel) for panel in panels) else ""
        drawn.append(f"Markers: mean; bars: ±\N{NO-BREAK SPACE}one sample standard deviation{dots}.")
        if any(cut_off(panel.curves) for panel in panels):
            drawn.append("A bar without a lower cap goes on below the axis.")
    if any(curve.lost for panel in panels for curve in panel.curves):
        edge = "right" if any(panel.names for panel in panels) else "upper"
        drawn.append(f"Crosses on the {edge} edge: cells that diverged or died.")
    for panel in panels:
        if panel.inset and top_with_inset(panel.curves) <= 100:
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


def _dotted(panel: Panel) -> bool:
    return bool(panel.names) or len(panel.curves) <= MOST_DOTTED


def chance_level(table: Table) -> float | None:
    """The error of guessing, in percent, where every data set has the same known number of classes."""
    levels = {guessing(record) for record in table.cells.record}
    return levels.pop() if len(levels) == 1 else None


def saved(figure: Any, kind: str, **options: Any) -> bytes:
    """The figure in a file of this kind."""
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, **options)
    return stream.getvalue()
