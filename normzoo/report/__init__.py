"""Reports on a folder of cells: a table, a summary and a figure, all computed from the result records."""

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normzoo.errors import UserError
from normzoo.results import FILE_NAME, read_results, write_atomic

if TYPE_CHECKING:
    from normzoo.report.checks import Check

__all__ = ["ReportPaths", "report"]


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report, its text for a terminal, and the number of failed cells.

    `text` is the whole message (table, verdicts, files). `failed` counts cells that ended with an error, were killed or
    ran out of memory or time: a diverged cell is a result. `refused` is whether every cell was refused.
    """

    csv: Path
    summary: Path
    png: Path
    svg: Path
    page: Path
    table: str
    checks: tuple["Check", ...]
    text: str
    failed: int
    refused: bool


def report(folder: str | os.PathLike[str], *, width: int | None = None) -> ReportPaths:
    """Write results.csv, summary.md, report.html and the figures into a sweep's folder.

    The figure is small_batch.png and .svg if cells differ in their batches, and errors.png and .svg otherwise. Learning
    curves are curves.png and .svg, if cells recorded several epochs.
    The sweep may still be running: whatever records are there are reported.

    Args:
        folder: The folder of a sweep, which has a folder per cell.
        width: The maximum number of characters in a line of the table; by default the terminal's width.

    Raises:
        UserError: If there is no readable result in the folder, or the folder cannot be written.
    """
    root = Path(folder)
    with _no_garbage():
        return _report(root, width)


def _report(root: Path, width: int | None) -> ReportPaths:
    # Only now: pandas and what draws with it take half a second to import.
    from normzoo.report.checks import FAILED, run_checks
    from normzoo.report.curves import CURVES, curve_panels
    from normzoo.report.figure import draw_figure
    from normzoo.report.frame import build_table
    from normzoo.report.render import build_page
    from normzoo.report.summary import build_summary
    from normzoo.report.sweep_axes import FIGURE_NAMES, figure_name
    from normzoo.report.terminal import lost_text, terminal_table, terminal_text
    from normzoo.report.text import rows_csv

    results, unreadable = read_results(root)
    if not results:
        found = f"; {len(unreadable)} could not be read, the first: {unreadable[0]}" if unreadable else ""
        raise UserError(
            f"found no results in {root} (looked for **/{FILE_NAME}{found}); give the folder of a sweep, which "
            "`normzoo train -m` prints at its end"
        )
    table = build_table(results)
    checks = run_checks(table)
    panels, name = curve_panels(table), figure_name(table)
    summary = build_summary(table, checks, unreadable, _unfinished(root), root, CURVES if panels else "")
    written_csv = write_atomic(root / "results.csv", rows_csv(table, str(root)))
    written_summary = write_atomic(root / "summary.md", summary)
    figures = {name: draw_figure(table), **({CURVES: draw_figure(table, panels)} if panels else {})}
    drawn = [
        write_atomic(root / f"{figure}.{kind}", content)
        for figure, files in figures.items()
        for kind, content in zip(("png", "svg"), files, strict=True)
    ]
    for other in {*FIGURE_NAMES, CURVES} - {*figures}:  # of an earlier report
        for kind in ("png", "svg"):
            (root / f"{other}.{kind}").unlink(missing_ok=True)
    page = build_page(summary, {figure: svg for figure, (_, svg) in figures.items()}, f"normzoo: {root.resolve().name}")
    written_page = write_atomic(root / "report.html", page)
    width = width or shutil.get_terminal_size().columns
    in_columns = terminal_table(table, width)
    files = [written_page, written_summary, written_csv, *drawn]
    return ReportPaths(
        csv=written_csv,
        summary=written_summary,
        png=drawn[0],
        svg=drawn[1],
        page=written_page,
        table=in_columns,
        checks=tuple(checks),
        text=terminal_text(in_columns, lost_text(table, width), checks, files, width),
        failed=int(table.cells.status.isin(FAILED).sum()),
        refused=bool((table.cells.status == "refused").all()),
    )


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Switch off garbage collection, which takes a third of the time on thousands of records and finds nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _unfinished(root: Path) -> int:
    """Count the cells that Hydra started and that have no record yet."""
    with os.scandir(root) as entries:
        folders = [entry.path for entry in entries if entry.is_dir()]
    return sum(os.path.isdir(f"{path}/.hydra") and not os.path.exists(f"{path}/{FILE_NAME}") for path in folders)
