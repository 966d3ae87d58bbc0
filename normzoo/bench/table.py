"""The figures of `normzoo bench layers` as lines of text."""

from collections.abc import Mapping
from typing import Any

from normzoo.bench.measure import Ratio
from normzoo.bench.row import LayerRow

LEGEND = """Medians of the ratios of each round, in brackets their quartiles: below 1 is faster than what it is compared
with. ms: of forward, and of forward and backward. saved: bytes kept for the backward, by those of the input, of the
norm and of what it is compared with: all but parameters count, the input too, statistics, and a condition if it is
kept."""

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
EAGER = 6  # columns without those of the compiled norm
NOTE = 90  # characters of it that are shown


def heading(where: Mapping[str, Any], shape: tuple[int, ...], rounds: int, compiled: bool) -> str:
    """The machine, what was measured, how to read the table, and its first line."""
    machine = f"{where['device']}, {where['threads']} of {where['cores']} threads, torch {where['torch']}"
    measured = f"input {'×'.join(map(str, shape))}, float32, {rounds} rounds or more"
    return "\n".join([machine, measured, LEGEND, "", _padded(tuple(COLUMNS), compiled)])


def line(row: LayerRow, compiled: bool) -> str:
    """One norm; at the end the beginning of a note, if there is one."""
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
    note = row.note if len(row.note) <= NOTE else f"{row.note[: NOTE - 1]}…"
    return f"{_padded(texts, compiled)}  {note}".rstrip()


def _padded(texts: tuple[str, ...], compiled: bool) -> str:
    columns = [text.ljust(width) for text, width in zip(texts, COLUMNS.values(), strict=True)]
    return "  ".join(columns[: None if compiled else EAGER])


def _ratio(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
