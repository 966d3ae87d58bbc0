"""Give each norm one colour, marker and line style, the same in every figure.

The colours are those of Okabe and Ito (2008), told apart with every common colour blindness; markers and line styles
tell the lines apart in grey print as well.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#767676"

Dash = str | tuple[int, tuple[float, ...]]
SOLID: Dash = "-"
DASHED: Dash = (0, (4, 1.6))
DOTTED: Dash = (0, (1, 1.4))
DASH_DOT: Dash = (0, (5, 1.4, 1, 1.4))
LONG_DASH: Dash = (0, (8, 2))
_DASHES = (SOLID, DASHED, DASH_DOT, DOTTED, LONG_DASH)


@dataclass(frozen=True)
class Style:
    """How a line is drawn; `filled` markers carry the colour, open ones are white inside."""

    name: str
    color: str
    marker: str
    dash: Dash
    filled: bool = True

    def open(self) -> "Style":
        """Return the style with open markers."""
        return replace(self, filled=False)


_NORMS = {
    "batch_norm": Style("BatchNorm", VERMILLION, "o", SOLID),
    "group_norm": Style("GroupNorm", BLUE, "^", SOLID),
    "layer_norm": Style("LayerNorm", GREEN, "s", DASHED),
    "instance_norm": Style("InstanceNorm", PURPLE, "v", DASH_DOT),
    "identity": Style("no norm", BLACK, "x", DOTTED),
    "ghost_batch_norm": Style("Ghost BatchNorm", ORANGE, "D", DASHED),
    "sync_batch_norm": Style("SyncBatchNorm", SKY, "P", LONG_DASH),
    "layer_norm_channel": Style("LayerNorm over C", SKY, "d", DASH_DOT),
}
_PLACEMENTS = {
    "pre_act": Style("before activation", ORANGE, "D", SOLID),
    "post_act": Style("after activation", PURPLE, "v", DASH_DOT),
    "last_only": Style("last stage only", BLACK, "s", DOTTED),
    "all_but_last": Style("all but last stage", BLUE, "^", DASHED),
    "first_only": Style("first stage only", GREEN, "o", LONG_DASH),
    "none": Style("nowhere", GREY, "x", DOTTED),
}
_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "d", "<", ">", "p", "h")


def norm_style(norm: str, variant: str | None = None) -> Style:
    """Return the style of a norm; a from-scratch twin has its original's with open markers."""
    arguments = (variant or norm).removeprefix(norm)
    known = _NORMS.get(norm.removesuffix("_scratch"))
    if known is None:
        style = _from_name(norm)
    elif norm.endswith("_scratch"):
        style = replace(known.open(), name=f"{known.name}, from scratch")
    else:
        style = known
    return _varied(style, arguments)


def placement_style(placement: str) -> Style:
    """Return the style of a placement."""
    name = placement.partition("(")[0]
    style = _PLACEMENTS.get(name) or _from_name(name)
    return _varied(style, placement.removeprefix(name))


def numbered_style(number: int, name: str) -> Style:
    """Return the style of the line with this number, among lines without a style of their own."""
    dash = _DASHES[number // len(_COLORS) % len(_DASHES)]
    return Style(name, _COLORS[number % len(_COLORS)], MARKERS[number % len(MARKERS)], dash)


def told_apart(styles: Sequence[Style]) -> list[Style]:
    """Change the colour and marker of each style that looks like an earlier one, if possible to unused ones."""
    colors, markers = {style.color for style in styles}, {style.marker for style in styles}
    seen: set[tuple[str, str, bool]] = set()
    apart = []
    for style in styles:
        if (style.color, style.marker, style.filled) in seen:
            free = [
                (color, marker)
                for marker in MARKERS
                for color in _COLORS
                if color != style.color and marker != style.marker and (color, marker, True) not in seen
            ]
            color, marker = min(free, key=lambda look: (look[0] in colors) + (look[1] in markers))
            style = replace(style, color=color, marker=marker, filled=True)
            colors.add(color)
            markers.add(marker)
        seen.add((style.color, style.marker, style.filled))
        apart.append(style)
    return apart


def matplotlib_arguments(style: Style) -> Mapping[str, Any]:
    """Return the style as keyword arguments of `Axes.plot`."""
    return {
        "color": style.color,
        "marker": style.marker,
        "linestyle": style.dash,
        "markerfacecolor": style.color if style.filled else "white",
        "markeredgecolor": style.color,
    }


def _from_name(name: str) -> Style:
    # Derived from the name, so that a norm looks the same whatever else the figure shows.
    code = zlib.crc32(name.encode())
    marker, dash = MARKERS[code // 8 % len(MARKERS)], _DASHES[code // 96 % len(_DASHES)]
    return Style(name, _COLORS[code % len(_COLORS)], marker, dash)


def _varied(style: Style, arguments: str) -> Style:
    """Return the same colour with another marker and dash, for a variant that differs in its arguments."""
    if not arguments:
        return style
    code = zlib.crc32(arguments.encode())
    marker, dash = MARKERS[code % len(MARKERS)], _DASHES[code // 12 % len(_DASHES)]
    return replace(style, name=f"{style.name} {arguments}", marker=marker, dash=dash)
