"""Long lines as a terminal shows them best."""

import shutil
import sys
import textwrap
from typing import TextIO

_LEAST = 40  # characters that a line of running text is to have


def counted(count: int, noun: str = "cell") -> str:
    """A count with its noun."""
    return f"{count} {noun}{'s' * (count != 1)}"


def wrapped(line: str, hang: int = 2, stream: TextIO | None = None) -> str:
    """The line, broken to the width of the terminal it is printed on; as it is where that is none.

    Args:
        line: May begin with columns of a table.
        hang: How far further lines are indented, where that leaves them room.
        stream: Where it is going to be printed; standard output if not told.
    """
    if not (stream or sys.stdout).isatty():
        return line
    width = shutil.get_terminal_size().columns
    if len(line) <= width:
        return line
    indent = " " * (hang if width - hang >= _LEAST else 4)
    return textwrap.fill(
        line, max(width, _LEAST), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
