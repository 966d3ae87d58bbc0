"""Ctrl-C once: start no more; twice, SIGTERM or a closed terminal: stop at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

ENDS = (signal.SIGTERM, signal.SIGHUP)
FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)  # to all processes in its foreground


def interrupt_on_end() -> None:
    """Let SIGTERM and SIGHUP interrupt this process as Ctrl-C does, so that its cells end with it."""
    if threading.current_thread() is threading.main_thread():
        for number in ENDS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)


class Stop:
    """What the signals to a sweep have asked for, while it is used as a context.

    The handlers only note the signal and wake whoever waits on `descriptor`, who acts where nothing is half done.

    Args:
        on_first: Called, by `look`, once the first SIGINT has come.
    """

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        self.draining = self.now = False
        self._on_first, self._told = on_first, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.descriptor, self._waker = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._waker, False)
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in (signal.SIGINT, *ENDS):
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # as nohup has it
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.descriptor)
        os.close(self._waker)

    def drain(self) -> None:
        """Start no more, for another reason than a signal."""
        self.draining = self._told = True

    def look(self) -> None:
        """Take note of the signals that have come."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 4096)
        if self.draining and not self._told:
            self._told = True
            if not self.now:
                self._on_first()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.now = self.now or self.draining or number in ENDS
        self.draining = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"!")
