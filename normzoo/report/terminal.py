"""Write the report as text that fits a terminal."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from normzoo.report import provenance as describe
from normzoo.report.checks import Check, show
from normzoo.report.failures import causes, short
from normzoo.report.frame import Table
from normzoo.report.series import batch_lines, beside, normalization_lines
from normzoo.report.sweep_axes import best, grid_of, over_batches, pooled_text
from normzoo.report.text import grid_table, line_grid, plain_table
from normzoo.text import counted, printable

_MOST_SETTINGS, _MOST_CAUSES = 4, 8


def terminal_table(table: Table, width: int) -> str:
    """Write errors by norm and batch size (or normalization batch), or else by what was varied."""
    blocks = [describe.counts(table)]
    if pools := pooled_text(table):
        blocks.append(textwrap.fill(f"cells of one line differ in {pools}", max(width, 40), subsequent_indent="  "))
    if not over_batches(table):
        n = describe.usual_seeds(table.cells)
        blocks.append(f"validation error in %, {_over(n)}")
        blocks.append(plain_table(*grid_table(grid_of(table), n), width))
        return "\n\n".join([*blocks, *_best(table, width)])
    for setting in table.settings[:_MOST_SETTINGS]:
        n = describe.usual_seeds(table.of(setting))
        blocks.append(f"{setting.title}: validation error in %, {_over(n)}")
        for corner, lines in (
            ("norm \\ batch size", batch_lines(table, setting)),
            ("norm \\ normalization batch", normalization_lines(table, setting)),
        ):
            if lines:
                names = [line.variant + beside(line, lines) for line in lines]
                head, body = line_grid(lines, names, n)
                blocks.append(plain_table([corner, *head], body, width))
    if len(table.settings) > _MOST_SETTINGS:
        blocks.append(f"{len(table.settings) - _MOST_SETTINGS} more settings in summary.md")
    return "\n\n".join([*blocks, *_best(table, width)])


def _over(n: int) -> str:
    return f"mean ± std over {n} seeds" if n > 1 else "one seed"


def _best(table: Table, width: int) -> list[str]:
    found = best(table)
    if found is None:
        return []
    text = f"best: {found[0]}: {show(found[1])} %{found[2] and f'; {found[2]}'}"
    return [textwrap.fill(text, max(width, 40), subsequent_indent="  ")]


def lost_text(table: Table, width: int) -> str:
    """List the causes of cells that did not finish, with their number and where to read on."""
    found = causes(table)
    lines = []
    for cause in found[:_MOST_CAUSES]:
        most = 300 if cause.read_on else 1000  # without a file, the text ends with the fix
        said = f"{cause.status}, {counted(len(cause.cells))}: {short(cause.said, most)}"
        more = f" [read on in {cause.read_on}]" if cause.read_on else ""
        lines.append(textwrap.fill(said + more, max(width, 40), subsequent_indent="  ", break_long_words=False))
    if len(found) > _MOST_CAUSES:
        lines.append(f"{len(found) - _MOST_CAUSES} more causes in summary.md")
    return "\n".join(lines)


def terminal_text(table: str, lost: str, checks: Sequence[Check], paths: Sequence[Path], width: int) -> str:
    """Join the table, lost cells, verdicts and paths, leaving out what is empty."""
    verdicts = [
        textwrap.fill(f"{check.verdict}: {check.text} [{check.measured}]", max(width, 40), subsequent_indent="  ")
        for check in checks
    ]
    return printable("\n\n".join(filter(None, [table, lost, "\n".join(verdicts), "\n".join(map(str, paths))])))
