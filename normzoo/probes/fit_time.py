"""Measure how long a cell trains and validates, without start-up and shutdown."""

import time
from typing import Any

from normzoo.probes._callback import Probe


class FitTime(Probe):
    """Measure `fit_s`, the seconds from before the first epoch until after the last one, without interruptions."""

    def __init__(self) -> None:
        self.fit_s = 0.0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Start the clock, or continue that of an interrupted training."""
        self._since = time.perf_counter() - self.fit_s

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Stop the clock."""
        self.fit_s = time.perf_counter() - self._since

    def summary(self) -> dict[str, float | None]:
        """Return `fit_s`."""
        return {"fit_s": self.fit_s}

    def state_dict(self) -> dict[str, float]:
        """Return the time so far, for a training that is resumed."""
        return {"fit_s": time.perf_counter() - self._since}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Continue the time of the interrupted training."""
        self.fit_s = state_dict["fit_s"]
