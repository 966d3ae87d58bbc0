"""summary.md: what was run, what it shows, and what did not run."""

from collections.abc import Callable, Sequence
from pathlib import Path

from normzoo.report import provenance as describe
from normzoo.report.checks import Check, show
from normzoo.report.facets import Setting
from normzoo.report.failures import causes, short
from normzoo.report.literature import GROUP_NORM_IMAGENET
from normzoo.report.rows import Table
from normzoo.report.series import (
    Line,
    batch_lines,
    flat_references,
    normalization_lines,
    placement_lines,
    positions,
    stat,
)
from normzoo.report.sweep_axes import best, figure_name, grid_of, over_batches, pooled_text
from normzoo.report.text import grid_table, line_grid, markdown_table
from normzoo.text import bounded, code, markdown

_MOST_SETTINGS = 20
_MOST_ENTRIES = 40
_THREE_ERRORS = (
    ("val_error_running", "running statistics"),
    ("val_error_population", "recomputed statistics"),
    ("val_error_batch", "batch statistics"),
)
_LOST = (
    ("diverged", "Diverged cells", "Training left the finite numbers; these cells are in no mean."),
    ("error", "Cells with an error", "These ended with an error."),
    ("killed", "Killed cells", "These processes were ended from outside."),
    ("oom", "Cells out of memory", "These asked for more memory than there was."),
    ("timeout", "Cells out of time", "These passed their time limit."),
)


def build_summary(table: Table, checks: Sequence[Check], unreadable: Sequence[str], unfinished: int, root: Path) -> str:
    """The whole page; sections without data are left out.

    Args:
        table: Of all cells.
        checks: Judged already.
        unreadable: What is said of files that are no records.
        unfinished: Cells without a record.
        root: The sweep's folder, where the page is to lie.
    """
    parts = [
        "# Sweep report\n",
        _what_was_run(table, unreadable, unfinished),
        f"![Validation error by what was varied]({figure_name(table)}.png)\n",
        *([_checks(checks), *_reference()] if checks else []),
    ]
    over = over_batches(table)
    for setting in table.settings[:_MOST_SETTINGS] if over else ():
        parts += _setting(table, setting)
    if not over:
        parts += _by_what_varied(table)
    elif len(table.settings) > _MOST_SETTINGS:
        parts.append(f"Another {len(table.settings) - _MOST_SETTINGS} settings are in results.csv alone.\n")
    parts.append(_not_run(table, root, "refused", "Refused combinations", "Refused before training: they cannot be."))
    parts += [_not_run(table, root, *entry) for entry in _LOST]
    if unreadable:
        listed = "\n".join(f"- {markdown(bounded(message, 500))}" for message in unreadable[:_MOST_ENTRIES])
        parts.append(f"## Files left out\n\n{listed}\n{_more(len(unreadable))}")
    return "\n".join(part for part in parts if part)


def _what_was_run(table: Table, unreadable: Sequence[str], unfinished: int) -> str:
    rows = table.rows
    entries = [
        ("Cells", describe.counts(table)),
        ("Data", describe.data(rows)),
        ("Model", describe.models(rows)),
        ("Seeds", describe.seeds_by_setting(table) if over_batches(table) else describe.seeds(rows)),
        ("Hardware", describe.hardware(rows)),
        ("Versions", describe.versions(rows)),
        ("Time", describe.time(rows)),
    ]
    if pools := pooled_text(table):
        entries.append(("Pooled", f"cells of one line differ in {pools}"))
    entries = [(name, markdown(text)) for name, text in entries]
    found = best(table)
    if found is not None:
        note = found[2] and f"; {markdown(found[2])}"
        entries.append(("Best", f"{code(found[0])}: {show(found[1])} % (n = {found[1].n}){note}"))
    if unfinished:
        entries.append(("Without a record", f"{describe.number(unfinished, 'cell')} begun and not finished"))
    if table.repeated:
        entries.append(
            ("Found twice", f"{describe.number(table.repeated, 'record')} of a cell that has another; counted once")
        )
    if unreadable:
        entries.append(("Unreadable", f"{describe.number(len(unreadable), 'file')}, named below"))
    return "\n".join(f"- {name}: {text}" for name, text in entries) + "\n"


def _checks(checks: Sequence[Check]) -> str:
    body = [[markdown(check.claim), f"**{check.verdict}**", markdown(check.figures)] for check in checks]
    head = markdown_table(["Claim", "Verdict", "Figures (error in %, mean ± std over seeds)"], body)
    return f"## Checks\n\n{head.replace('---:', '---')}"


def _by_what_varied(table: Table) -> list[str]:
    grid, n = grid_of(table), describe.usual_seeds(table.rows)
    head, body = grid_table(grid, n, markdown, code)
    names = [axis.name for axis in (*grid.lines, *([grid.across] if grid.across else []))]
    parts = [
        f"## Validation error by {markdown(' and '.join(names))}\n",
        _spread(n),
        markdown_table(head, body),
    ]
    judged = []
    for key, points in grid.points.items():
        for x, point in points.items():
            if point.rows[0].norm in table.batch_norms and point.stat is not None:
                label = ", ".join(filter(None, (grid.label(key), grid.across.label(x) if grid.across else "")))
                stats = [stat(point.rows, metric) for metric, _ in _THREE_ERRORS]
                judged.append([code(label), *(show(s) if s else "–" for s in stats)])
    if judged:
        parts.append("### By the statistics in evaluation, of norms that share them between samples\n")
        parts.append(markdown_table(["cells", *(name for _, name in _THREE_ERRORS)], judged[:_MOST_ENTRIES]))
        parts.append(_more(len(judged)).removeprefix("- ").capitalize())
    return parts


def _setting(table: Table, setting: Setting) -> list[str]:
    rows = table.by_setting[setting]
    n = describe.usual_seeds(rows)
    parts = [
        f"## {markdown(setting.title)}\n",
        _spread(n),
    ]
    placement = table.main_placement(setting)
    lines = batch_lines(table, setting)
    where = f"placement {markdown(placement)}"
    title = f"### Validation error by norm and batch size per device (running statistics, {where})"
    parts.append(_section(title, "norm", lines, n, lambda line: f"{line.variant}{_devices(line)}"))
    parts.append(_three_errors(table, setting, n))
    arm = normalization_lines(table, setting)
    if arm:
        references = flat_references(table, setting, [line.step_batch for line in arm])
        title = f"### Validation error by normalization batch ({where})"
        parts.append(
            _section(
                title, "norm", arm, n, lambda line: f"{line.variant}, {line.step_batch} samples a step{_devices(line)}"
            )
        )
        smallest = min(positions(line) or 1 for line in arm)
        parts.append(
            "The normalization batch is the number of samples that share a statistic. The smallest normalized map has "
            f"{describe.number(smallest, 'position')}, so that a mean there averages "
            f"{describe.number(smallest, 'value')} a sample.\n"
        )
        beside = [f"{line.variant} {show(point.stat)}" for line in references for point in line.points if point.stat]
        if beside:
            parts.append(
                f"Norms that share nothing between samples, at as many a step: {markdown('; '.join(beside))}.\n"
            )
    return [*parts, _placements(table, setting, n)]


def _spread(n: int) -> str:
    return f"Error in %, mean ± sample std, n = {describe.number(n, 'seed')} unless noted.\n"


def _section(title: str, corner: str, lines: Sequence[Line], n: int, name: Callable[[Line], str]) -> str:
    if not lines:
        return ""
    head, body = line_grid(lines, [code(name(line)) for line in lines], n)
    return f"{title}\n\n{markdown_table([corner, *head], body)}"


def _three_errors(table: Table, setting: Setting, n: int) -> str:
    """The same nets judged with three sets of statistics, for norms that share statistics between samples."""
    parts = []
    arms = [*batch_lines(table, setting), *normalization_lines(table, setting)]
    for line in [line for line in arms if line.norm in table.batch_norms]:
        body = []
        for metric, name in _THREE_ERRORS:
            stats = [stat(point.rows, metric) for point in line.points]
            body.append([name, *(show(s) if s else "–" for s in stats)])
        axis = (
            "batch size per device"
            if line.step_batch is None
            else f"normalization batch, {line.step_batch} samples a step"
        )
        head = markdown_table([axis, *(str(point.x) for point in line.points)], body)
        parts.append(
            f"### Validation error of {code(line.variant)}{_devices(line)} by the statistics it is evaluated with\n\n"
            f"{head}"
        )
    return "\n".join(parts)


def _placements(table: Table, setting: Setting, n: int) -> str:
    lines = placement_lines(table, setting)
    if not lines:
        return ""
    shared = lines[0].norm in table.batch_norms
    axis = "normalization batch" if shared else "batch size"
    title = f"### Validation error of {code(lines[0].variant)} by placement and {axis}"

    def name(line: Line) -> str:
        return line.placement + (f", {line.step_batch} samples a step" if line.step_batch else "") + _devices(line)

    return _section(title, "placement", lines, n, name)


def _reference() -> list[str]:
    reference = GROUP_NORM_IMAGENET
    columns = sorted({x for row in reference.errors.values() for x in row})
    body = [[f"`{norm}`", *(f"{row[x]:.1f}" for x in columns)] for norm, row in reference.errors.items()]
    text = f"{reference.what}. Source: {reference.citation}. Not measured here.\n"
    return ["For comparison, the curve of the GN paper:\n", markdown_table(["norm", *map(str, columns)], body), text]


def _not_run(table: Table, root: Path, status: str, title: str, lead: str) -> str:
    found = causes(table, status)
    if not found:
        return ""
    entries = []
    for cause in found[:_MOST_ENTRIES]:
        rows = cause.rows
        variants = describe.listing((code(variant) for variant in dict.fromkeys(row.variant for row in rows)), 12)
        placements = markdown(describe.listing(dict.fromkeys(row.placement for row in rows), 6))
        where = markdown(describe.listing(dict.fromkeys(row.setting.title for row in rows)))
        sizes = ", ".join(map(str, sorted({row.batch for row in rows if row.batch is not None}))) or "?"
        cells = f"{describe.seeds(rows)}, {describe.number(len(rows), 'cell')}"
        example = f"for {rows[0].variant}: " if len({row.variant for row in rows}) > 1 else ""
        more = f"; read on in {code(str(_from(root, cause.read_on)))}" if cause.read_on else ""
        entries.append(
            f"- {variants}, placement {placements}, {where}, batch {sizes}, {cells}: "
            f"{markdown(example + short(cause.said, 500))}{more}"
        )
    return f"## {title}\n\n{lead}\n\n" + "\n".join(entries) + f"\n{_more(len(found))}"


def _from(root: Path, file: Path) -> Path:
    """The file as seen from the sweep's folder, where this page lies."""
    return file.relative_to(root) if file.is_relative_to(root) else file


def _devices(line: Line) -> str:
    return f", {describe.number(line.devices, 'device')}" if line.devices else ""


def _more(count: int) -> str:
    return f"- and {count - _MOST_ENTRIES} more, in results.csv\n" if count > _MOST_ENTRIES else ""
