"""Choose the panels that a sweep has data for, each as curves with their styles; nothing is drawn here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from normzoo.report import provenance as describe
from normzoo.report.facets import Setting
from normzoo.report.frame import Table
from normzoo.report.series import (
    Line,
    Stat,
    batch_lines,
    beside,
    flat_references,
    has_batch_axis,
    normalization_lines,
    placement_lines,
    values_lines,
)
from normzoo.report.style import DASHED, Style, norm_style, numbered_style, placement_style, told_apart

Scale = Literal["log2", "log10", "linear"]

_MOST_GRIDS = 3
_MOST_ARMS = 2
_BATCH = "Batch size per device"
_NORMALIZATION_BATCH = "Normalization batch (samples that share a statistic)"


@dataclass(frozen=True)
class Reference:
    """A published result: error in percent at each batch size per device, one curve per norm."""

    citation: str
    what: str
    short: str
    errors: Mapping[str, Mapping[int, float]]


GROUP_NORM_IMAGENET = Reference(
    citation="Wu & He, Group Normalization, ECCV 2018, arXiv:1803.08494",
    what="ResNet-50 on ImageNet, 8 GPUs, 100 epochs, validation error in %, images per GPU",
    short="ImageNet, Wu & He 2018",
    errors={
        "batch_norm": {2: 34.7, 4: 27.3, 8: 24.8, 16: 23.7, 32: 23.6},
        "group_norm": {2: 24.1, 4: 24.2, 8: 24.0, 16: 24.2, 32: 24.1},
    },
)


@dataclass(frozen=True)
class Curve:
    """A line of a panel; `lost` are the x at which cells diverged or died. A `flat` one is a level, without points.

    With `band` the spread is drawn as a band rather than bars.
    """

    style: Style
    points: Sequence[tuple[float, Stat]]
    lost: Sequence[float] = ()
    flat: bool = False
    band: bool = False


@dataclass(frozen=True)
class Panel:
    """The content of one pair of axes; `seeds` describes the seeds of its points.

    With `names` it is a ranking: points of the curves are places in this list, from top to bottom.
    """

    title: str
    x_label: str
    curves: Sequence[Curve]
    seeds: str
    note: str
    inset: Reference | None = None
    scale: Scale = "log2"
    names: Sequence[str] = ()


def build_panels(table: Table) -> list[Panel]:
    """Build every panel with data: grids over batch size, values per statistic, placements, normalization batches."""
    grids = [setting for setting in table.settings if has_batch_axis(table, setting)]
    panels = [panel for setting in grids[:_MOST_GRIDS] for panel in _grid(table, setting)]
    panels = _some_of(panels, _MOST_GRIDS, len(grids)) + _values(table)
    placed = [s for s in table.settings if placement_lines(table, s)]
    panels += _some_of([panel for setting in placed[:1] for panel in _placements(table, setting)], 1, len(placed))
    arms = [s for s in table.settings if s not in placed[:1] and normalization_lines(table, s)]
    further = [panel for setting in arms[:_MOST_ARMS] for panel in _arm(table, setting)]
    panels += _some_of(further, _MOST_ARMS, len(arms))
    return [panel for panel in panels if any(curve.points or curve.lost for curve in panel.curves)]


def _grid(table: Table, setting: Setting) -> list[Panel]:
    lines = batch_lines(table, setting)
    several = f", {setting.label}" if setting.label else ""
    curves = [_curve(line, lines) for line in lines]
    note = f"placement {table.main_placement(setting)}"
    # A norm that was refused everywhere is missed in the picture, so it is named below it.
    refused = [curve.style.name for curve, line in zip(curves, lines, strict=True) if not line.ran]
    note += f"; refused, not drawn: {', '.join(refused)}" if refused else ""
    return [Panel(f"Batch size{several}", _BATCH, _shown(curves), _seeds(lines), note)]


def _values(table: Table) -> list[Panel]:
    lines = values_lines(table)
    if len({x for line in lines for x, _ in line.measured}) < 2:
        return []
    ratios = {p.x / batch for line in lines for p in line.points for batch in p.cells.batch.dropna().unique()}
    if len(lines) == 1 or (len(ratios) == 1 and len({line.setting for line in lines}) == 1):
        return []  # another panel once more, with other numbers below it
    several = len({line.setting for line in lines}) > 1
    # Two settings of one norm share its colour: the first has filled markers, the next open ones.
    ranks = {setting: i for i, setting in enumerate(dict.fromkeys(line.setting for line in lines))}
    curves: list[Curve] = []
    for line in lines:
        style = norm_style(line.norm, line.variant)
        if several:
            style = replace(style, name=f"{style.name}, {line.setting.label}")
        rank = ranks[line.setting]
        if len(ranks) > 2:
            style = numbered_style(len(curves), style.name)
        elif rank:
            style = replace(style.open(), dash=DASHED)
        curves.append(_curve(line, lines, style))
    note = "norms that share statistics between samples; n is the smallest of the net's normalized maps"
    return [
        Panel("Values per statistic", "Values per statistic, n = batch · H · W", _shown(curves), _seeds(lines), note)
    ]


def _placements(table: Table, setting: Setting) -> list[Panel]:
    lines = placement_lines(table, setting)
    shared = lines[0].norm in table.batch_norms
    curves = [_curve(line, lines, placement_style(line.placement)) for line in lines]
    step = f", {_steps(lines)} samples a step" if lines[0].step_batch else ""
    norm = norm_style(lines[0].norm, lines[0].variant).name
    label = f", {setting.label}" if setting.label else ""
    note = f"{norm}{step}, every stage normalized unless the label says otherwise"
    return [Panel(f"Placement{label}", _NORMALIZATION_BATCH if shared else _BATCH, _shown(curves), _seeds(lines), note)]


def _arm(table: Table, setting: Setting) -> list[Panel]:
    lines = normalization_lines(table, setting)
    if max(len(line.points) for line in lines) < 2:
        return []
    curves = [_curve(line, lines) for line in lines]
    levels = flat_references(table, setting, [line.step_batch for line in lines])
    for line in levels:
        curves.append(replace(_curve(line, levels), flat=True))
    label = f", {setting.label}" if setting.label else ""
    note = f"{_steps(lines)} samples a step, levels: norms that share nothing between samples"
    return [
        Panel(
            f"Normalization batch{label}",
            _NORMALIZATION_BATCH,
            _shown(curves),
            _seeds([*lines, *levels]),
            note,
            GROUP_NORM_IMAGENET,
        )
    ]


def line_style(line: Line, lines: Sequence[Line], style: Style | None = None) -> Style:
    """Return a style, by default that of the line's norm, with what tells the line from others in its name."""
    style = style or norm_style(line.norm, line.variant)
    return replace(style, name=style.name + beside(line, lines))


def _curve(line: Line, lines: Sequence[Line], style: Style | None = None) -> Curve:
    lost = [point.x for point in line.points if point.lost]
    return Curve(line_style(line, lines, style), line.measured, lost)


def _seeds(lines: Sequence[Line]) -> str:
    """Describe the seeds of what is drawn, with their number at a point if it varies."""
    points = [point for line in lines for point in line.points]
    cells = pd.concat([line.cells for line in lines])
    if not any(point.stat for point in points):
        return describe.seeds(cells)
    counts = sorted({point.stat.n for point in points if point.stat})
    text = describe.seeds(cells[cells.status == "ok"])
    return text if len(counts) < 2 else f"{text}, {counts[0]} to {counts[-1]} of them a point"


def _shown(curves: Sequence[Curve]) -> list[Curve]:
    shown = [curve for curve in curves if curve.points or curve.lost]
    styles = told_apart([curve.style for curve in shown])
    return [replace(curve, style=style) for curve, style in zip(shown, styles, strict=True)]


def _some_of(panels: list[Panel], shown: int, found: int) -> list[Panel]:
    """Note in the first panel how many settings are shown, if there are more."""
    if shown >= found or not panels:
        return panels
    note = f"{panels[0].note}; {shown} of {found} settings shown, all are in results.csv"
    return [replace(panels[0], note=note), *panels[1:]]


def _steps(lines: Sequence[Line]) -> str:
    return ", ".join(str(step) for step in sorted({line.step_batch for line in lines if line.step_batch}))
