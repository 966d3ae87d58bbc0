"""Prepare records for a table: one per cell, with texts that can be shown and configs without nesting."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from normzoo.results import CellResult
from normzoo.text import bounded, displayable, printable


def without_repeats(results: Iterable[CellResult]) -> tuple[list[CellResult], int]:
    """Keep one record per cell: a finished one rather than another, the later one of equals."""
    best: dict[str, CellResult] = {}
    total = 0
    for result in map(displayed, results):
        total += 1
        other = best.get(result.cell)
        if other is None or _preference(result) >= _preference(other):
            best[result.cell] = result
    return list(best.values()), total - len(best)


def displayed(result: CellResult) -> CellResult:
    """Replace texts and numbers that a table, page or figure cannot show."""
    texts = {name: displayable(getattr(result, name)) for name in ("cell", "config", "device", "versions")}
    metrics = {displayable(name): value for name, value in result.metrics.items()}
    reason = bounded(printable(result.reason)) if result.reason else result.reason
    started = displayable(result.time.get("started"))
    return replace(result, **texts, metrics=metrics, reason=reason, time={**result.time, "started": started})


def _preference(result: CellResult) -> tuple[bool, str]:
    return result.status == "ok", str(result.time.get("started", ""))


def flatten(config: Mapping[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    """Name entries in full (`optimizer.lr`); write lists as JSON, and `true` too, which in Python equals 1.

    Args:
        config: The nested configuration of a cell.
        texts: Results for lists and texts seen before, by their `repr`.
    """
    flat: dict[str, Any] = {}

    def add(entries: Mapping[str, Any], prefix: str) -> None:
        for key, value in entries.items():
            kind = type(value)  # a record's config is JSON; faster than isinstance
            if kind is dict and value:
                add(value, f"{prefix}{key}.")
            elif kind is list or kind is dict:
                shown = repr(value)
                flat[f"{prefix}{key}"] = texts.get(shown) or texts.setdefault(shown, json.dumps(value))
            elif kind is str:
                shown = f"text {value}"
                flat[f"{prefix}{key}"] = texts.get(shown) or texts.setdefault(shown, _quoted(value))
            elif kind is bool:
                flat[f"{prefix}{key}"] = "true" if value else "false"
            else:
                flat[f"{prefix}{key}"] = value

    add(config, "")
    return flat


def _quoted(text: str) -> str:
    """Quote a text that would otherwise look like a number, a list or null."""
    try:
        json.loads(text)
    except ValueError:
        return text
    return json.dumps(text)
