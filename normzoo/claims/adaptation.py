"""Test-time statistics help on shifted images, and collapse at small test batches."""

import re

import pandas as pd
from matplotlib.figure import Figure

from normzoo.claims._cells import Curve, show, split, spread, where
from normzoo.claims._checks import Finding, exceeds, outcome, times
from normzoo.claims._draw import CHANCE, band, label, legend_above, log_scale, styled, ticks
from normzoo.report.style import BLUE, GREEN, GREY, ORANGE, VERMILLION, Style, norm_style

NONE = "error_none"
COLLAPSE = 2.0  # by what factor an error rises
_METHODS = {
    "adabn": Style("AdaBN", BLUE, "o", "-"),
    "blend": Style("blend", GREEN, "s", "--"),
    "tent": Style("TENT", ORANGE, "D", "-."),
}
_NONE = Style("not adapted", VERMILLION, "^", ":")


def judge(cells: pd.DataFrame) -> Finding:
    """Judge each method on the images that are shifted most, and on those that are not shifted."""
    by_severity = split(where(cells, norm="batch_norm"), "study.severity")
    sizes = _sizes(cells)
    if not by_severity or not sizes:
        return Finding("no cells with BatchNorm", [])
    plain, most = by_severity[min(by_severity)], by_severity[max(by_severity)]
    small, large = sizes[0], sizes[-1]
    checks = []
    for method, style in _METHODS.items():
        at_small, at_large = (outcome(most, f"error_{method}_{size}") for size in (small, large))
        harmed, name = outcome(plain, f"error_{method}_{small}"), style.name
        checks += [
            exceeds(
                f"most shifted: the error is higher without {name} than with it at {large}",
                outcome(most, NONE),
                at_large,
            ),
            times(f"most shifted: {name} at {small} has a higher error than at {large}", at_small, at_large, COLLAPSE),
            exceeds(
                f"not shifted: the error is higher with {name} at {small} than without", harmed, outcome(plain, NONE)
            ),
        ]
    parts = []
    for severity, own in sorted(by_severity.items()):
        told = [f"not adapted {show(spread(own, NONE))} %"]
        for method, style in _METHODS.items():
            told.append(f"{style.name} {' / '.join(show(spread(own, f'error_{method}_{n}')) for n in sizes)} %")
        parts.append(f"severity {severity:g}: {', '.join(told)}")
    gn = spread(where(cells, norm="group_norm", study__severity=max(by_severity)), NONE)
    parts += [f"GroupNorm at the last of these {show(gn)} %"] if gn else []
    return Finding(f"error at test batches of {' / '.join(map(str, sizes))}. " + "; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw the error over the severity at the largest test batch, and over the test batch at the largest severity."""
    figure.set_size_inches(7.2, 3.1)
    left, right = figure.subplots(1, 2, sharey=True)
    sizes, bn = _sizes(cells), where(cells, norm="batch_norm")
    for method, style in _METHODS.items() if sizes else ():
        band(left, _over_severity(bn, f"error_{method}_{sizes[-1]}"), **styled(style))
        for severity, alpha in zip(_ends(bn), (0.45, 1.0), strict=False):
            own = where(bn, study__severity=severity)
            found = {float(n): stat for n in sizes if (stat := spread(own, f"error_{method}_{n}"))}
            band(right, (list(found), list(found.values())), **styled(style, alpha=alpha))
    band(left, _over_severity(bn, NONE), **styled(_NONE))
    gn = norm_style("group_norm")
    band(left, _over_severity(where(cells, norm="group_norm"), NONE), **styled(gn, color=GREY))
    for severity, alpha in zip(_ends(bn), (0.45, 1.0), strict=False):
        if stat := spread(where(bn, study__severity=severity), NONE):
            right.axhline(stat.mean, color=_NONE.color, ls=_NONE.dash, lw=1.2, alpha=alpha)
    for axes in (left, right):
        log_scale(axes, "y")
        axes.set_ylim(top=CHANCE * 1.1)
    if sizes:
        log_scale(right, "x")
        ticks(right, sizes)
        label(left, f"Test batches of {sizes[-1]}", "Severity of the shift", "Error (%)")
    label(right, "Most shifted; pale: not shifted", "Test batch size")
    legend_above(figure, [left])


def _ends(cells: pd.DataFrame) -> list[float]:
    found = sorted(split(cells, "study.severity"))
    return [found[0], found[-1]] if found else []


def _over_severity(cells: pd.DataFrame, metric: str) -> Curve:
    found = {s: stat for s, own in sorted(split(cells, "study.severity").items()) if (stat := spread(own, metric))}
    return list(found), list(found.values())


def _sizes(cells: pd.DataFrame) -> list[int]:
    """Return the sizes of test batches that cells recorded."""
    names = {name for record in cells.record for name in record.metrics} if len(cells) else set()
    return sorted({int(found[1]) for name in names if (found := re.fullmatch(r"error_adabn_(\d+)", name))})
