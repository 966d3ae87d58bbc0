"""A legend between the title and the axes, where it covers no data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normzoo.report.panels import Panel
from normzoo.report.titles import wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KEY, _CHARACTER, _ROW, _PAD = 0.5, 0.056, 0.145, 0.1  # inches


def legend_size(panel: Panel, width: float) -> tuple[float, int, list[str]]:
    """The height of a panel's legend in inches, its columns, and its names, in axes of this width."""
    if len(panel.curves) < 2 and panel.names:  # a ranking, which names what it shows on its left
        return 0.0, 1, []
    names = [wrapped(curve.style.name, max(8, int((width - _KEY) / _CHARACTER)), 3) for curve in panel.curves]
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    columns = max(1, min(len(names), int(width / (_KEY + _CHARACTER * longest))))
    rows = -(-len(names) // columns)
    columns = -(-len(names) // rows)  # no more than it takes
    lines = sum(name.count("\n") + 1 for name in names) if columns == 1 else rows
    return _PAD + _ROW * lines, columns, names


def place_legend(axes: Axes, handles: Sequence[Any], panel: Panel) -> None:
    """Put the legend above the axes, in the room that `legend_size` asks for."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    _, columns, names = legend_size(panel, axes.get_position().width * figure.get_figwidth())
    if names:
        place: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.5}
        axes.legend(handles, names, ncols=columns, columnspacing=1.2, **place)
