"""Print without failing if nobody can read it: into a pipe closed by `head`, a closed terminal, a full disk."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO, cast

from normzoo.text import printable


def _make_printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), None
    return True


logging.getLogger("normzoo").addFilter(_make_printable)  # log messages quote names and texts from anywhere


class Output:
    """A stream that discards everything once it can no longer be written.

    Args:
        stream: A stream with a file descriptor, which is then redirected to the null device.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None  # why it could not be written, except that its reader has gone

    def write(self, text: str) -> int:
        """Write a text, escaping characters that the encoding does not have."""
        try:
            try:
                return self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            return self._end(len(text), error)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._end(0, error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _end(self, written: int, error: OSError) -> int:
        self.lost = self.lost if isinstance(error, BrokenPipeError) else error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        return written


@contextmanager
def to_any_reader() -> Iterator[None]:
    """Make standard output and standard error such streams: a sweep continues after `| head` has ended."""
    with ExitStack() as opened:

        def opened_at_all(stream: TextIO | None) -> TextIO:
            # None where it was closed before Python began, as by `>&-`.
            return stream or opened.enter_context(open(os.devnull, "w", encoding="utf-8"))

        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (cast(TextIO, Output(opened_at_all(stream))) for stream in before)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before
