"""A legend that covers no data: the first free corner, or a corner that room is made for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from normzoo.report.panels import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_MOST_TRIES = 40
_CORNERS: tuple[Literal["upper right", "lower left", "upper left", "lower right"], ...] = (
    "upper right",
    "lower left",
    "upper left",
    "lower right",
)


def place_legend(
    axes: Axes, handles: Sequence[Any], curves: Sequence[Curve], inset: Axes | None, levels: Sequence[float] = ()
) -> None:
    """Put the legend where neither a line, a point, a bar nor the inset is, raising the upper limit where need be.

    `levels` are further horizontal lines to keep clear of.
    """
    names = [curve.style.name for curve in curves]
    columns = _columns(axes, handles, names)
    options: Any = {"ncols": columns, "borderaxespad": 0.3, "fontsize": _size(len(curves)), "columnspacing": 1.2}
    legend = axes.legend(handles, names, loc="upper right", **options)
    taken = inset.get_tightbbox() if inset else None
    # The corners stay where they are while the limits are raised: to lay a legend out is what costs time.
    boxes = {}
    for corner in _CORNERS:
        legend.set_loc(corner)
        boxes[corner] = legend.get_window_extent().padded(2)
    for _ in range(_MOST_TRIES):
        for corner, box in boxes.items():
            if not _covers(axes, box, curves, levels) and not (taken and box.overlaps(taken)):
                legend.set_loc(corner)
                return
        low, high = axes.get_ylim()
        axes.set_ylim(top=high * (high / low) ** 0.08 if axes.get_yscale() == "log" else high + 0.08 * (high - low))
        boxes = {corner: box for corner, box in boxes.items() if corner.startswith("upper")}
    legend.set_loc("upper left")


def _size(count: int) -> float:
    return 6.8 if count <= 6 else 6.2 if count <= 12 else 5.8


def _columns(axes: Axes, handles: Sequence[Any], names: Sequence[str]) -> int:
    """As many columns as keep the legend low and inside the axes."""
    columns = 1 if len(names) <= 6 else 2 if len(names) <= 12 else 4
    while columns > 1:
        legend = axes.legend(handles, names, ncols=columns, fontsize=_size(len(names)), columnspacing=1.2)
        if legend.get_window_extent().width <= 0.97 * axes.get_window_extent().width:
            break
        columns -= 1
    return columns


def _covers(axes: Axes, box: Bbox, curves: Sequence[Curve], levels: Sequence[float]) -> bool:
    left, right = axes.get_xlim()
    spines: list[tuple[list[tuple[float, float]], Curve | None]] = [([(left, y), (right, y)], None) for y in levels]
    for curve in curves:
        level = curve.points[-1][1].mean if curve.points else 0.0
        flat = [(left, level), (right, level)]
        spines.append((flat if curve.flat else [(x, s.mean) for x, s in curve.points], curve))
    for spine, drawn in spines:
        points = drawn.points if drawn else ()
        places = [(x, v) for x, s in points for v in (*s.values, s.mean - (s.std or 0), s.mean + (s.std or 0))]
        shown = [(x, v) for x, v in (*spine, *places) if v > 0 or axes.get_yscale() != "log"]
        pixels: Any = axes.transData.transform(shown) if shown else []
        if any(box.contains(x, y) for x, y in pixels):
            return True
        for (x0, y0), (x1, y1) in pairwise(pixels[: len(spine)]):
            steps = max(2, math.ceil(math.hypot(x1 - x0, y1 - y0) / 3))
            if any(box.contains(x0 + (x1 - x0) * t / steps, y0 + (y1 - y0) * t / steps) for t in range(steps)):
                return True
    return False
