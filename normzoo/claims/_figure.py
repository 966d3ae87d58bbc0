"""A claim's figure as files: the page it is drawn on, and a line below it that says what was run."""

import textwrap
from collections.abc import Callable

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from normzoo.claims._cells import lost
from normzoo.report import provenance
from normzoo.report.figure import looks, saved
from normzoo.text import counted

SIZE = (7.2, 2.9)  # inches; a claim that needs another calls `figure.set_size_inches`


def drawn(name: str, cells: pd.DataFrame, draw: Callable[[pd.DataFrame, Figure], None]) -> tuple[bytes, bytes]:
    """Draw the figure of a claim as PNG and as SVG."""
    with looks(**{"text.parse_math": True}):  # of ticks, as powers of ten
        # Figure and canvas directly, not through pyplot: no window, no state shared with the caller's own figures.
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        draw(cells, figure)
        _limit_percentages(figure)
        layout = figure.get_layout_engine()
        if isinstance(layout, ConstrainedLayoutEngine):  # a claim that sets its axes by hand writes its own caption
            width, height = figure.get_size_inches()
            lines = textwrap.wrap(f"{name}: {_run(cells)}{_spread(figure)}", int(width * 20.4))
            foot = (0.06 + 0.125 * len(lines)) / height
            layout.set(rect=(0, foot, 1, 1 - foot))
            figure.text(0.01, 0.04 / height, "\n".join(lines), fontsize=6.4, color="#555555", va="bottom")
        for text in figure.findobj(Text):
            if isinstance(text, Text) and "\\mathdefault" not in text.get_text():
                text.set_parse_math(False)
        return saved(figure, "png", dpi=200), saved(figure, "svg", metadata={"Date": None})


def _run(cells: pd.DataFrame) -> str:
    """Say what was run: data, models, seeds, hardware, versions."""
    trained = cells.loc[[not record.config.get("study") for record in cells.record]]
    parts = [] if trained.empty else [f"{provenance.models(trained)} on {provenance.data(trained)}"]
    parts += [
        counted(len(cells)) + lost(cells, " ({})"),
        provenance.seeds(cells),
        provenance.hardware(cells),
        provenance.versions(cells, ("normzoo", "torch")),
    ]
    return "; ".join(parts) + "."


def _limit_percentages(figure: Figure) -> None:
    """End the axes of errors and accuracies at 0 and 100 %, whatever the bars and bands around the means are."""
    for axes in figure.axes:
        for label, limits, limit in (
            (axes.get_xlabel(), axes.get_xlim(), axes.set_xlim),
            (axes.get_ylabel(), axes.get_ylim(), axes.set_ylim),
        ):
            if "(%)" in label and ("error" in label.lower() or "accuracy" in label.lower()):
                limit(max(limits[0], 0.0), min(limits[1], 100.0))


def _spread(figure: Figure) -> str:
    """Say what bands and error bars are, if there are any."""
    parts = [part for axes in figure.axes for part in (*axes.collections, *axes.containers)]
    kinds: dict[str, type] = {"bands": PolyCollection, "error bars": ErrorbarContainer}
    named = [name for name, kind in kinds.items() if any(isinstance(part, kind) for part in parts)]
    what = " and ".join(named).capitalize()
    return f" {what}: ± sample std over seeds, unless an axis says otherwise." if named else ""
