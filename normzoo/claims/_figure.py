"""A claim's figure as files: the page it is drawn on, and a line below it that says what was run."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import lost
from normzoo.errors import UserError
from normzoo.report import provenance as describe
from normzoo.report.figure import looks, saved
from normzoo.report.frame import build_table
from normzoo.results import CellResult
from normzoo.sweep.claims_manifest import ClaimCells
from normzoo.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (7.2, 2.9)  # inches; a claim that needs another calls `figure.set_size_inches`


def drawn(
    claim: ClaimCells, records: Sequence[CellResult], draw: Callable[[Sequence[CellResult], "Figure"], None]
) -> tuple[bytes, bytes]:
    """The figure as PNG and as SVG.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
        from matplotlib.text import Text
    except ImportError as error:
        raise UserError("a claim's figure needs matplotlib: pip install 'normzoo[sweep]'") from error
    with looks(**{"text.parse_math": True}):  # of ticks, as powers of ten
        # Figure and canvas directly, not through pyplot: no window, no state shared with the caller's own figures.
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        draw(records, figure)
        _end_at_all(figure)
        layout = figure.get_layout_engine()
        if isinstance(layout, ConstrainedLayoutEngine):  # a claim that sets its axes by hand writes its own caption
            width, height = figure.get_size_inches()
            lines = textwrap.wrap(f"{claim.name}: {ran(records)}{_spread(figure)}", int(width * 20.4))
            foot = (0.06 + 0.125 * len(lines)) / height
            layout.set(rect=(0, foot, 1, 1 - foot))
            figure.text(0.01, 0.04 / height, "\n".join(lines), fontsize=6.4, color="#555555", va="bottom")
        for text in figure.findobj(Text):
            if isinstance(text, Text) and "\\mathdefault" not in text.get_text():
                text.set_parse_math(False)
        return saved(figure, "png", dpi=200), saved(figure, "svg", metadata={"Date": None})


def ran(records: Sequence[CellResult]) -> str:
    """What was run, from the records: data, models, seeds, hardware, versions."""
    table = build_table(records)
    trained = table.cells[[not record.config.get("study") for record in table.cells.record]]
    parts = [] if trained.empty else [f"{describe.models(trained)} on {describe.data(trained)}"]
    parts.append(f"{counted(len(table.cells), 'cell')}{f' ({gone})' if (gone := lost(records)) else ''}")
    parts += [
        describe.seeds(table.cells),
        describe.hardware(table.cells),
        describe.versions(table.cells, ("normzoo", "torch")),
    ]
    return "; ".join(parts) + "."


def _end_at_all(figure: "Figure") -> None:
    """No error or accuracy is below 0 or above 100 %, whatever the bars and bands around it are."""
    for axes in figure.axes:
        for label, limits, limit in (
            (axes.get_xlabel(), axes.get_xlim(), axes.set_xlim),
            (axes.get_ylabel(), axes.get_ylim(), axes.set_ylim),
        ):
            if "(%)" in label and ("error" in label.lower() or "accuracy" in label.lower()):
                limit(max(limits[0], 0.0), min(limits[1], 100.0))


def _spread(figure: "Figure") -> str:
    """What bands and error bars are, if there are any."""
    from matplotlib.collections import PolyCollection
    from matplotlib.container import ErrorbarContainer

    drawn = {type(part) for axes in figure.axes for part in (*axes.collections, *axes.containers)}
    kinds: tuple[tuple[type, str], ...] = ((PolyCollection, "bands"), (ErrorbarContainer, "error bars"))
    named = [name for kind, name in kinds if any(issubclass(part, kind) for part in drawn)]
    what = " and ".join(named).capitalize()
    return f" {what}: ± sample std over seeds, unless an axis says otherwise." if named else ""
