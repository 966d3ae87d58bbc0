"""Text that keeps to its place in a figure, however long the names of what was varied are."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZES = (8.5, 7.5, 6.5)
_SMALL = 6.0  # of two lines, which then take little more height than one of the first size


def put_title(axes: Axes, text: str, *, left: float = 0.0, pad: float = 6.0) -> None:
    """A title above the axes that ends where they do: smaller, or else in two lines, the second cut short.

    Args:
        left: Where it begins, in widths of the axes.
        pad: Points above the axes.
    """
    title = axes.set_title(text, loc="left", x=left, pad=pad)
    room = axes.get_window_extent().width * (1 - left)
    for size in _SIZES:
        title.set_fontsize(size)
        if title.get_window_extent().width <= room:
            return
    title.set_fontsize(_SMALL)
    title.set_linespacing(1.1)
    text = text[:400]  # of which two lines have fewer
    characters = len(text) // 2
    while characters > 1 and title.get_window_extent().width > room:
        characters -= 1
        title.set_text("\n".join(textwrap.wrap(text, characters, max_lines=2, placeholder=" …")))


def wrapped(text: str, characters: int, lines: int = 2) -> str:
    """The text in at most so many lines of so many characters, cut short where it is longer."""
    return "\n".join(textwrap.wrap(text, characters, max_lines=lines, placeholder=" …")) or text
