"""Make text from anywhere (names, paths, messages, records of others) safe to show; one function per medium.

JSON files keep text as it is; everything shown goes through these functions.
"""

import re
import shutil
import sys
import textwrap
from typing import Any, TextIO

# Control characters, what turns the direction of text or ends a line, and halves of characters, which are how Python
# keeps the bytes of a name that is not UTF-8.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_FORMULA = frozenset("=+-@＝＋－＠")  # the first characters of what a spreadsheet runs
_LONGEST = 4096  # characters of one message
_LONGEST_VALUE = 300
_LEAST = 40  # characters that a line of running text is to have
LARGEST = 1e150  # of numbers: its square is one too


def printable(text: str, keep: str = "\n") -> str:
    r"""Escape what terminals and files cannot show: `\x1b` for an escape, `\xff` for a byte that is not UTF-8."""
    if text.isprintable():
        return text
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else _named(ord(found[0])), text)


def _named(code: int) -> str:
    return f"\\x{code & 0xFF:02x}" if 0xDC80 <= code <= 0xDCFF else chr(code).encode("unicode_escape").decode()


def bounded(text: str, most: int = _LONGEST) -> str:
    """Shorten a long text to its beginning and end, with its length between them."""
    if len(text) <= most:
        return text
    note = f" … ({len(text):,} characters in all) … "
    end = (most - len(note)) // 4
    return text[: most - len(note) - end] + note + text[-end:]


def displayable(value: Any) -> Any:
    """Make the texts of plain data fit on one line, and its numbers small enough to plot."""
    if type(value) is str:
        short = len(value) <= _LONGEST_VALUE and value.isprintable()
        return value if short else bounded(printable(value, keep=""), _LONGEST_VALUE)
    if type(value) is dict:
        return {
            key if key.isidentifier() and len(key) <= _LONGEST_VALUE else displayable(key): entry
            if entry is None or type(entry) is bool
            else displayable(entry)
            for key, entry in value.items()
        }
    if type(value) is list:
        return [displayable(entry) for entry in value]
    if type(value) is int and abs(value) >= 2**63:
        return bounded(str(value))
    if type(value) is float and value and not 1 / LARGEST < abs(value) < LARGEST:
        return str(value)
    return value


def markdown(text: str) -> str:
    """Escape a text for Markdown, so that nothing in it is markup or HTML.

    An underscore within a word needs no escape.
    """
    marks = r"[\\`*\[\]$~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])"
    text = re.sub(marks, r"\\\g<0>", printable(text, keep=""))
    return re.sub(r"^(\s*\d*)([-+=.)](?=\s|$)|[#>])", r"\1\\\2", text)


def code(text: str) -> str:
    """Write a text as code of Markdown, or escaped if code cannot show it."""
    text = printable(text, keep="")
    return f"`{text}`" if text.strip() and not set(text) & set("`\\|") else markdown(text)


def csv_cell(value: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run as a formula."""
    if isinstance(value, str) and value.lstrip()[:1] in _FORMULA and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def counted(count: int, noun: str = "cell") -> str:
    """Write a count with its noun."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, from an hour on with the hours."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def wrapped(line: str, hang: int = 2, stream: TextIO | None = None) -> str:
    """Wrap a line to the width of the terminal; return it unchanged if the stream is not a terminal.

    Args:
        line: The line, which may begin with columns of a table.
        hang: The indent of further lines, if it leaves them enough room.
        stream: Where the line will be printed; standard output by default.
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
