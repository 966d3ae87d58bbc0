"""BatchNorm fails when few values share a statistic; norms within a sample do not care."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normzoo.claims._cells import spread, text, where
from normzoo.claims._finding import Finding
from normzoo.report.checks import LARGE, SMALL, run_checks
from normzoo.report.figure import draw_on
from normzoo.report.frame import build_table
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 8  # of the images whose last map is 1×1


def judge(records: Sequence[CellResult]) -> Finding:
    """The checks of the sweep's own report, and the errors at its two ends."""
    parts = []
    for name, short in (("batch_norm", "BN"), ("group_norm", "GN")):
        cells = where(records, norm=name, placement="pre_act", data__image_size=_SIDE)
        ends = [where(cells, batch_size_per_device=size) for size in (SMALL, LARGE)]
        errors = [text(spread(end, "val_error_running"), end, unit="%") for end in ends]
        parts.append(f"{short} at batch {SMALL}: {errors[0]}, at {LARGE}: {errors[1]}")
    return Finding("validation error: " + "; ".join(parts), run_checks(build_table(records)))


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """The figure of the sweep's own report."""
    draw_on(figure, build_table(records))
