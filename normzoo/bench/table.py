"""Format the results of `normzoo bench layers` as text."""

from collections.abc import Mapping
from typing import Any

from normzoo.bench.measure import LayerRow, Ratio

LEGEND = """Median ratio of the rounds, with quartiles in brackets; below 1 is faster than the reference. ms: forward,
and forward plus backward. saved: bytes saved for the backward, relative to those of the input, of the norm and of the
reference; parameters do not count."""

COLUMNS = {
    "norm": 26,
    "against": 28,
    "forward": 19,
    "forward+backward": 19,
    "ms": 13,
    "saved": 11,
    "compiled: forward": 19,
    "compiled: both": 19,
    "compiled: saved": 15,
}
EAGER_COLUMNS = 6  # those before the compiled ones
NOTE_WIDTH = 90


def heading(where: Mapping[str, Any], shape: tuple[int, ...], rounds: int, compiled: bool) -> str:
    """Return the machine, the input, the legend and the column titles."""
    machine = f"{where['device']}, {where['threads']} of {where['cores']} threads, torch {where['torch']}"
    measured = f"input {'×'.join(map(str, shape))}, float32, at least {rounds} rounds"
    return "\n".join([machine, measured, LEGEND, "", _padded(tuple(COLUMNS), compiled)])


def line(row: LayerRow, compiled: bool) -> str:
    """Format one row, with the beginning of its note at the end."""
    milliseconds = "-" if row.milliseconds is None else "{:.2f} {:.2f}".format(*row.milliseconds)
    texts = (
        row.norm,
        row.against,
        _ratio(row.forward),
        _ratio(row.both),
        milliseconds,
        f"{_number(row.saved)} / {_number(row.saved_against)}",
        _ratio(row.compiled_forward),
        _ratio(row.compiled_both),
        _number(row.compiled_saved),
    )
    note = row.note if len(row.note) <= NOTE_WIDTH else f"{row.note[: NOTE_WIDTH - 1]}…"
    return f"{_padded(texts, compiled)}  {note}".rstrip()


def _padded(texts: tuple[str, ...], compiled: bool) -> str:
    columns = [text.ljust(width) for text, width in zip(texts, COLUMNS.values(), strict=True)]
    return "  ".join(columns[: None if compiled else EAGER_COLUMNS])


def _ratio(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
