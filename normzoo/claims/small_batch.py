"""BatchNorm fails when few values share a statistic; norms within a sample do not care."""

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import spread, text, where
from normzoo.claims._checks import Finding
from normzoo.claims._draw import RUNNING
from normzoo.report.checks import LARGE, SMALL, run_checks
from normzoo.report.figure import draw_on
from normzoo.report.frame import build_table

_SIDE = 8  # of the images whose last map is 1×1


def judge(cells: pd.DataFrame) -> Finding:
    """Judge by the checks of the sweep's own report."""
    parts = []
    for norm, short in (("batch_norm", "BN"), ("group_norm", "GN")):
        own = where(cells, norm=norm, placement="pre_act", image_size=_SIDE)
        errors = []
        for size in (SMALL, LARGE):
            at = where(own, batch=size)
            errors.append(text(spread(at, RUNNING), at, unit="%"))
        parts.append(f"{short} at batch {SMALL}: {errors[0]}, at {LARGE}: {errors[1]}")
    return Finding("validation error: " + "; ".join(parts), run_checks(build_table(cells.record)))


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the figure of the sweep's own report."""
    draw_on(figure, build_table(cells.record))
