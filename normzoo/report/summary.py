"""Write summary.md: what was run, what it shows, and what failed; its text is in `templates/summary.md.j2`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from normzoo.report import provenance as describe
from normzoo.report.checks import Check, show
from normzoo.report.facets import Setting
from normzoo.report.failures import causes, short
from normzoo.report.frame import METRIC, Table
from normzoo.report.panels import GROUP_NORM_IMAGENET
from normzoo.report.render import code, render, words
from normzoo.report.series import (
    Line,
    Point,
    batch_lines,
    flat_references,
    normalization_lines,
    placement_lines,
    positions,
)
from normzoo.report.sweep_axes import best, figure_name, grid_of, over_batches, pooled_text
from normzoo.report.text import grid_table, line_grid
from normzoo.text import bounded, counted

_MOST_SETTINGS = 20
_MOST_ENTRIES = 40
_THREE_ERRORS = (
    ("val_error_running", "running statistics"),
    ("val_error_population", "recomputed statistics"),
    ("val_error_batch", "batch statistics"),
)
_LOST = (
    ("refused", "Refused combinations", "Refused before training: they cannot work."),
    ("diverged", "Diverged cells", "Training left the finite numbers; these cells are in no mean."),
    ("pruned", "Pruned cells", "A search ended these early, as others did better at the same epoch."),
    ("error", "Cells with an error", "These ended with an error."),
    ("killed", "Killed cells", "These processes were ended from outside."),
    ("oom", "Cells out of memory", "These asked for more memory than there was."),
    ("timeout", "Cells out of time", "These passed their time limit."),
)


def build_summary(
    table: Table, checks: Sequence[Check], unreadable: Sequence[str], unfinished: int, root: Path, curves: str = ""
) -> str:
    """Write the whole page, without sections that have no data.

    Args:
        table: All cells.
        checks: The results of `run_checks`.
        unreadable: A message for each file that is not a record.
        unfinished: The number of cells without a record.
        root: The sweep's folder, which links are relative to.
        curves: The name of the figure of learning curves, if there is one.
    """
    over = over_batches(table)
    return render(
        "report/templates/summary.md.j2",
        number=counted,
        most_entries=_MOST_ENTRIES,
        facts=_facts(table, len(unreadable), unfinished),
        figure=figure_name(table),
        checks=checks,
        curves=curves,
        reference=GROUP_NORM_IMAGENET,
        settings=[_setting(table, setting) for setting in table.settings[:_MOST_SETTINGS]] if over else [],
        settings_left_out=len(table.settings) - _MOST_SETTINGS,
        varied=None if over else _by_what_varied(table),
        lost=[(title, lead, _causes(table, root, status)) for status, title, lead in _LOST],
        unreadable=[bounded(message, 500) for message in unreadable],
    )


def _facts(table: Table, unreadable: int, unfinished: int) -> list[tuple[str, str]]:
    cells = table.cells
    pools, found = pooled_text(table), best(table)
    entries = [
        ("Cells", describe.counts(table)),
        ("Data", describe.data(cells)),
        ("Model", describe.models(cells)),
        ("Seeds", describe.seeds_by_setting(table) if over_batches(table) else describe.seeds(cells)),
        ("Hardware", describe.hardware(cells)),
        ("Versions", describe.versions(cells)),
        ("Time", describe.time(cells)),
        ("Pooled", pools and f"cells of one line differ in {pools}"),
    ]
    if found is not None:
        note = found[2] and f"; {found[2]}"
        entries.append(("Best", code(found[0]) + words(f": {show(found[1])} % ({counted(found[1].n, 'seed')}){note}")))
    if (early := cells.get(f"{METRIC}stopped_epoch")) is not None:
        epochs = f"epoch {early.min():.0f} to {early.max():.0f}"
        entries.append(("Stopped early", f"{counted(int(early.count()))}, after {epochs}"))
    if unfinished:
        entries.append(("Without a record", f"{counted(unfinished)} started and not finished"))
    if table.repeated:
        text = f"{counted(table.repeated, 'record')} of a cell that has another; counted once"
        entries.append(("Found twice", text))
    if unreadable:
        entries.append(("Unreadable", f"{counted(unreadable, 'file')}, named below"))
    return [entry for entry in entries if entry[1]]


def _by_what_varied(table: Table) -> dict[str, Any]:
    grid, n = grid_of(table), describe.usual_seeds(table.cells)
    (corner, *head), body = grid_table(grid, n, code)
    evaluated = []
    for key, points in grid.points.items():
        for x, point in points.items():
            if point.cells.norm.iloc[0] in table.batch_norms and point.stat is not None:
                label = ", ".join(filter(None, (grid.label(key), grid.across.label(x) if grid.across else "")))
                evaluated.append([code(label), *(_shown(point, metric) for metric, _ in _THREE_ERRORS)])
    return {
        "names": " and ".join(grid.names),
        "n": n,
        "errors": ([Markup(r" \ ").join(map(words, corner.split(r" \ "))), *head], body),
        "head": ["cells", *(name for _, name in _THREE_ERRORS)],
        "evaluated": evaluated,
    }


def _setting(table: Table, setting: Setting) -> dict[str, Any]:
    n = describe.usual_seeds(table.of(setting))
    lines, arm, placed = (find(table, setting) for find in (batch_lines, normalization_lines, placement_lines))
    references = flat_references(table, setting, [line.step_batch for line in arm])
    beside = [f"{line.variant} {show(point.stat)}" for line in references for point in line.points if point.stat]
    return {
        "title": setting.title,
        "n": n,
        "placement": table.main_placement(setting),
        "by_batch": _table("norm", lines, [f"{line.variant}{_devices(line)}" for line in lines], n),
        "evaluated": [_evaluated(line) for line in (*lines, *arm) if line.norm in table.batch_norms],
        "arm": _table("norm", arm, [f"{line.variant}{_step(line)}{_devices(line)}" for line in arm], n),
        "positions": min((positions(line) or 1 for line in arm), default=1),
        "beside": "; ".join(beside),
        "placed": _table("placement", placed, [f"{line.placement}{_step(line)}{_devices(line)}" for line in placed], n),
        "placed_norm": placed[0].variant if placed else "",
        "placed_axis": "normalization batch" if placed and placed[0].norm in table.batch_norms else "batch size",
    }


def _table(
    corner: str, lines: Sequence[Line], names: Sequence[str], n: int
) -> tuple[list[str], list[list[str]]] | None:
    if not lines:
        return None
    head, body = line_grid(lines, [code(name) for name in names], n)
    return [corner, *head], body


def _evaluated(line: Line) -> dict[str, Any]:
    """Evaluate the same nets with three sets of statistics, for a norm that shares statistics between samples."""
    axis = f"normalization batch{_step(line)}" if line.step_batch else "batch size per device"
    return {
        "variant": line.variant,
        "devices": _devices(line),
        "head": [axis, *(point.x for point in line.points)],
        "body": [[name, *(_shown(point, metric) for point in line.points)] for metric, name in _THREE_ERRORS],
    }


def _shown(point: Point, metric: str) -> str:
    found = point.over(metric)
    return show(found) if found else "–"


def _causes(table: Table, root: Path, status: str) -> list[dict[str, Any]]:
    entries = []
    for cause in causes(table, status):
        cells = cause.cells
        variants = cells.variant.unique()
        file = cause.read_on
        entries.append(
            {
                "variants": Markup(describe.listing(map(code, variants), 12)),
                "placements": describe.listing(cells.placement.unique(), 6),
                "settings": describe.listing(table.settings[i].title for i in cells.setting.unique()),
                "batches": ", ".join(map(str, sorted(cells.batch.dropna().unique()))) or "?",
                "cells": f"{describe.seeds(cells)}, {counted(len(cells))}",
                "said": (f"for {variants[0]}: " if len(variants) > 1 else "") + short(cause.said, 500),
                "read_on": file.relative_to(root) if file and file.is_relative_to(root) else file,
            }
        )
    return entries


def _devices(line: Line) -> str:
    return f", {counted(line.devices, 'device')}" if line.devices else ""


def _step(line: Line) -> str:
    return f", {line.step_batch} samples a step" if line.step_batch else ""
