"""The report as a plain table that fits a terminal."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from normzoo.report import describe
from normzoo.report.arms import batch_lines, normalization_lines
from normzoo.report.checks import Check
from normzoo.report.rows import Table
from normzoo.report.text import line_grid, plain_table

_MOST_SETTINGS = 4


def terminal_table(table: Table, width: int) -> str:
    """Norm × batch size (and × normalization batch, where that was varied), mean ± std over seeds."""
    blocks = [describe.counts(table)]
    for setting in table.settings[:_MOST_SETTINGS]:
        n = describe.usual_seeds(table.by_setting[setting])
        over = f"mean ± std over {n} seeds" if n > 1 else "one seed"
        blocks.append(f"{setting.title}: validation error in %, {over}")
        for corner, lines in (
            ("norm \\ batch size", batch_lines(table, setting)),
            ("norm \\ normalization batch", normalization_lines(table, setting)),
        ):
            if lines:
                names = [line.variant + (f", {line.devices} devices" if line.devices else "") for line in lines]
                head, body = line_grid(lines, names, n)
                blocks.append(plain_table([corner, *head], body, width))
    if len(table.settings) > _MOST_SETTINGS:
        blocks.append(f"{len(table.settings) - _MOST_SETTINGS} more settings in summary.md")
    return "\n\n".join(blocks)


def terminal_text(table: str, checks: Sequence[Check], paths: Sequence[Path], width: int) -> str:
    """The table, the verdicts and where the files lie."""
    verdicts = [
        textwrap.fill(f"{check.verdict}: {check.claim} [{check.figures}]", max(width, 40), subsequent_indent="  ")
        for check in checks
    ]
    return "\n\n".join([table, "\n".join(verdicts), "\n".join(map(str, paths))])
