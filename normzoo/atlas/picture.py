"""Work out from the fact `reduces_over` which values share a statistic, and draw the tensor with them in one color."""

import re
from functools import reduce
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from normzoo.norm_info import NormInfo

SHAPE = SAMPLES, CHANNELS, POSITIONS = 4, 6, 5
"""The tensor that is drawn; of a norm of weights its axes are outputs, inputs and the kernel."""
OPTIONS: dict[str, Any] = {
    "num_groups": 3,
    "group_size": 2,
    "contiguous": True,
    "num_splits": 2,
    "num_domains": 2,
    "window_size": 3,
    "size": 3,
}
"""Options of the norms that show on so small a tensor."""
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Those of Okabe and Ito, which people with any color vision can tell apart."""
GRAY, WIDTH, HEIGHT, DEPTH = "#9aa3ad", 24, 18, (14, -10)


def options(norm: NormInfo) -> dict[str, Any]:
    """Return the options that the picture of a norm is drawn with."""
    return {name: value for name, value in OPTIONS.items() if name in norm.arguments}


def statistics(norm: NormInfo) -> dict[str, Tensor]:
    """Return for each statistic of a norm, by its dimensions, which values it averages.

    Row i of a matrix, over the values of a tensor of `SHAPE`, marks those whose average normalizes value i.
    """
    found = {}
    for stated in re.split(r"; | and ", norm.reduces_over):
        first, then, second = stated.partition(", then ")
        for dims in (first, f"{first}, {second}") if then else (first,):
            found[dims] = _averaged(dims)
    return {dims: matrix for dims, matrix in found.items() if not torch.equal(matrix, torch.eye(len(matrix)).bool())}


def _averaged(dims: str) -> Tensor:
    def named(pattern: str) -> bool:
        return re.search(pattern, dims) is not None

    along = [torch.eye(size) for size in SHAPE]
    if named(r"\bN/k|\bN of a domain"):
        along[0] = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
    elif named(r"\bN\b|^weight$"):
        along[0] = torch.ones(SAMPLES, SAMPLES)
    elif named("samples before"):
        along[0] = torch.ones(SAMPLES, SAMPLES).tril(-1)
    if named("C/G"):
        along[1] = torch.block_diag(*[torch.ones(2, 2)] * (CHANNELS // 2))
    elif named("n of C"):
        along[1] = torch.ones(CHANNELS, CHANNELS).tril(1).triu(-1)
    elif named(r"\bC\b|^fan-in$|^weight$"):
        along[1] = torch.ones(CHANNELS, CHANNELS)
    if named("window"):
        along[2] = torch.ones(POSITIONS, POSITIONS).tril(1).triu(-1)
    elif named(r"\*|^fan-in$|^weight$"):
        along[2] = torch.ones(POSITIONS, POSITIONS)
    if named("of C1|of C2"):
        half = (torch.arange(CHANNELS) < CHANNELS // 2) == named("of C1")
        along[1] *= half[:, None]
    return reduce(torch.kron, along).bool()


def colors(averaged: Tensor) -> list[str]:
    """Return a color for each value: the same for those that share a statistic, gray for those that have none.

    Where statistics overlap, as those of a sliding window do, only the one of a single value is colored.
    """
    product = averaged.float() @ averaged.float() > 0
    if not torch.equal(product, averaged):
        own = int(averaged.sum(1).argmax())
        return [COLORS[5] if i == own else COLORS[0] if averaged[own, i] else GRAY for i in range(len(averaged))]
    first = torch.where(averaged.any(1), averaged.int().argmax(1), -1).tolist()  # names the group of each value
    places = {i: (i // (CHANNELS * POSITIONS), i // POSITIONS % CHANNELS, i % POSITIONS) for i in {*first} - {-1}}
    ranks = [sorted({place[axis] for place in places.values()}) for axis in (1, 2, 0)]
    varying = [(axis, rank) for axis, rank in zip((1, 2, 0), ranks, strict=True) if len(rank) > 1]

    def color(place: tuple[int, ...]) -> str:
        hue, level = [*(rank.index(place[axis]) for axis, rank in varying), 0, 0][:2]
        return _lighter(COLORS[hue], level * 0.22)

    return [GRAY if i == -1 else color(places[i]) for i in first]


def _lighter(color: str, share: float) -> str:
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def draw(norm: NormInfo) -> list[dict[str, Any]]:
    """Return a picture for each statistic: its dimensions, the number of values in it, and the SVG."""
    axes = ("outputs", "inputs", "kernel") if norm.kind == "weight" else ("N", "C", "H × W")
    pictures = [(dims, int(averaged.sum(1).max()), colors(averaged)) for dims, averaged in statistics(norm).items()]
    if not pictures and norm.reduces_over:
        pictures = [("-", 1, [GRAY] * (SAMPLES * CHANNELS * POSITIONS))]
    return [
        {"dims": dims, "count": count, "svg": _cube(fills, axes, f"{norm.name}: {dims}")}
        for dims, count, fills in pictures
    ]


def _cube(fills: list[str], axes: tuple[str, ...], title: str) -> Markup:
    """Draw the three faces of the tensor that one sees: one path a color, so that pointing at one picks it out."""
    back = (SAMPLES * DEPTH[0], SAMPLES * DEPTH[1])
    cells = []
    for n, c, p in ((n, c, p) for n in range(SAMPLES) for c in range(CHANNELS) for p in range(POSITIONS)):
        x, y = c * WIDTH + n * DEPTH[0], p * HEIGHT + n * DEPTH[1] - back[1]
        fill = fills[(n * CHANNELS + c) * POSITIONS + p]
        if n == 0:
            cells.append((fill, f"M{x} {y}h{WIDTH}v{HEIGHT}h-{WIDTH}z"))
        if p == 0:
            cells.append((fill, f"M{x} {y}l{DEPTH[0]} {DEPTH[1]}h{WIDTH}l-{DEPTH[0]} {-DEPTH[1]}z"))
        if c == CHANNELS - 1:
            cells.append((fill, f"M{x + WIDTH} {y}l{DEPTH[0]} {DEPTH[1]}v{HEIGHT}l-{DEPTH[0]} {-DEPTH[1]}z"))
    paths = {fill: " ".join(path for other, path in cells if other == fill) for fill, _ in cells}
    groups = Markup("").join(
        Markup('<path fill="{}" stroke="#fff" stroke-width="1" stroke-linejoin="round" d="{}"/>').format(fill, path)
        for fill, path in paths.items()
    )
    width, height = CHANNELS * WIDTH + back[0], POSITIONS * HEIGHT - back[1]
    words = '<text x="{}" y="{}" text-anchor="{}">{}</text>'
    labels = Markup("").join(
        Markup(words).format(x, y, anchor, axis)
        for x, y, anchor, axis in (
            (back[0] / 2 - 9, -back[1] / 2 - 3, "end", axes[0]),
            (CHANNELS * WIDTH / 2, height + 15, "middle", axes[1]),
            (-6, -back[1] + POSITIONS * HEIGHT / 2 + 4, "end", axes[2]),
        )
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" class="cube" role="img" viewBox="-50 -4 {} {}">'
        '<title>{}</title>{}<g font-family="system-ui, sans-serif" font-size="12" fill="currentColor">{}</g></svg>'
    )
    return Markup(svg).format(width + 56, height + 26, title, groups, labels)
