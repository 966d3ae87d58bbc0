"""Whether nets have learned anything: what is compared of nets that only guess tells nothing."""

from collections.abc import Iterable
from typing import Any

from normzoo.report.facets import said
from normzoo.results import CellResult

# Of data sets whose records do not say it.
_CLASSES = {"mnist5k": 10, "mnist": 10, "fashion_mnist": 10, "digits": 10, "cifar10": 10}
_NEAR = 5.0  # points; with many classes, the accuracy of guessing


def guessing(result: CellResult) -> float | None:
    """The error of guessing in percent, where the number of classes is known."""
    data = result.config.get("data")
    config: Any = data if isinstance(data, dict) else {}
    classes = config.get("num_classes") or result.metrics.get("num_classes") or _CLASSES.get(str(config.get("name")))
    return 100.0 * (1 - 1 / classes) if isinstance(classes, (int, float)) and classes >= 1 else None


def learned(result: CellResult) -> bool | None:
    """Whether a cell has at some time been clearly better than guessing; None where that is not known.

    A net that works with one kind of statistics has learned, however badly it does with another.
    """
    if result.status == "diverged":
        return False
    level = guessing(result)
    errors = [
        value
        for metrics in (result.metrics, *result.curve)
        for name, value in metrics.items()
        if "error" in name and not name.startswith("train") and value is not None
    ]
    if result.status != "ok" or level is None or not errors:
        return None
    return min(errors) < level - min(_NEAR, 100.0 - level)


def none_learned(cells: Iterable[CellResult]) -> str:
    """Why nothing can be told of these cells: none that came to an end has learned; empty where one has."""
    ended = [cell for cell in cells if cell.status in ("ok", "diverged")]
    if not ended or any(learned(cell) is not False for cell in ended):
        return ""
    levels = sorted({f"{level:.3g}" for cell in ended if (level := guessing(cell)) is not None})
    return f"none of these nets has learned: guessing has an error of {' or '.join(levels) or '?'} %"


def at_edge(rate: float | None, tried: Iterable[float]) -> str:
    """Why a best learning rate may not be the best there is: none beyond it was tried; empty where some were."""
    rates = set(tried)
    if rate is None or len(rates) < 2 or min(rates) < rate < max(rates):
        return ""
    return f"the best learning rate, {said(rate)}, stands at the edge of those tried"
