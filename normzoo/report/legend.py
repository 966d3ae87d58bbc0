"""A legend that covers no data: the first free corner, or a corner that room is made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from normzoo.report.panels import Curve
from normzoo.report.titles import wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from matplotlib.transforms import Bbox

_MOST_TRIES = 40
Corner = Literal["upper right", "lower left", "upper left", "lower right"]
_CORNERS: tuple[Corner, ...] = ("upper right", "lower left", "upper left", "lower right")


def place_legend(
    axes: Axes, handles: Sequence[Any], curves: Sequence[Curve], inset: Axes | None, levels: Sequence[float] = ()
) -> None:
    """Put the legend where neither a line, a point, a bar nor the inset is, raising the upper limit where need be.

    `levels` are further horizontal lines to keep clear of.
    """
    legend = _legend(axes, handles, [curve.style.name for curve in curves])
    boxes = _boxes(axes, legend)
    taken = inset.get_tightbbox() if inset else None
    drawn = _Drawn(axes, curves, levels)
    for _ in range(_MOST_TRIES):
        pixels = drawn.pixels()
        for corner, box in boxes.items():
            if not _covers(box, pixels) and not (taken and box.overlaps(taken)):
                legend.set_loc(corner)
                return
        low, high = axes.get_ylim()
        axes.set_ylim(top=high * (high / low) ** 0.08 if axes.get_yscale() == "log" else high + 0.08 * (high - low))
        # The corners stay where they are while the limits are raised.
        boxes = {corner: box for corner, box in boxes.items() if corner.startswith("upper")}
    legend.set_loc("upper left")


def _legend(axes: Axes, handles: Sequence[Any], names: Sequence[str]) -> Legend:
    """In the upper right corner, in as many columns as keep it low and inside the axes."""
    size = 6.8 if len(names) <= 6 else 6.2 if len(names) <= 12 else 5.8
    columns = 1 if len(names) <= 6 else 2 if len(names) <= 12 else 4
    shown = list(names)
    while True:
        # To lay a legend out is what costs time, and most of all where matplotlib is to look for the best place.
        legend = axes.legend(
            handles, shown, loc="upper right", ncols=columns, borderaxespad=0.3, fontsize=size, columnspacing=1.2
        )
        share = 0.97 * axes.get_window_extent().width / legend.get_window_extent().width
        if share >= 1:
            return legend
        if columns > 1:
            columns -= 1
        else:  # names of arguments, which may be as long as one likes
            characters = int(share * max(len(line) for name in shown for line in name.split("\n"))) - 1
            shown = [wrapped(name, max(characters, 8), 3) for name in names]
            if characters < 8:
                return legend


def _boxes(axes: Axes, legend: Legend) -> dict[Corner, Bbox]:
    """Where the legend, which is in the upper right corner, would be in each, and a little around it."""
    from matplotlib.transforms import Bbox

    frame, box = axes.get_window_extent(), legend.get_window_extent()
    right, top = frame.x1 - box.x1, frame.y1 - box.y1
    boxes: dict[Corner, Bbox] = {}
    for corner in _CORNERS:
        x = box.x0 if corner.endswith("right") else frame.x0 + right
        y = box.y0 if corner.startswith("upper") else frame.y0 + top
        boxes[corner] = Bbox.from_bounds(x, y, box.width, box.height).padded(2)
    return boxes


class _Drawn:
    """What a legend is to keep clear of: lines, and single points such as the ends of bars."""

    def __init__(self, axes: Axes, curves: Sequence[Curve], levels: Sequence[float]) -> None:
        self.axes = axes
        left, right = axes.get_xlim()
        lines: list[list[tuple[float, float]]] = [[(left, y), (right, y)] for y in levels]
        points: list[tuple[float, float]] = []
        for curve in curves:
            level = curve.points[-1][1].mean if curve.points else 0.0
            lines.append([(left, level), (right, level)] if curve.flat else [(x, s.mean) for x, s in curve.points])
            points += [
                (x, v) for x, s in curve.points for v in (*s.values, s.mean - (s.std or 0), s.mean + (s.std or 0))
            ]
        if axes.get_yscale() == "log":
            lines = [[(x, y) for x, y in line if y > 0] for line in lines]
            points = [(x, y) for x, y in points if y > 0]
        self.points = np.array([*points, *(place for line in lines for place in line)]).reshape(-1, 2)
        self.starts, self.ends = (
            np.array([place for line in lines for place in line[part]]).reshape(-1, 2)
            for part in (slice(None, -1), slice(1, None))
        )

    def pixels(self) -> np.ndarray:
        """The points, and the lines as points at most three pixels apart, at the limits the axes have now."""
        points, starts, ends = (
            self.axes.transData.transform(places) for places in (self.points, self.starts, self.ends)
        )
        longest = np.hypot(*(ends - starts).T).max(initial=0.0)
        share = np.linspace(0, 1, max(2, int(np.ceil(longest / 3))), endpoint=False)[:, None, None]
        return np.concatenate([points, (starts + (ends - starts) * share).reshape(-1, 2)])


def _covers(box: Bbox, pixels: np.ndarray) -> bool:
    return bool(((pixels >= box.min) & (pixels <= box.max)).all(axis=1).any())
