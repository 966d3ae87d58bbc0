"""How long a cell trains and validates, apart from what it takes to begin and to end."""

import time
from typing import Any

from lightning.pytorch import Callback


class FitTime(Callback):
    """Measures `fit_s`, the seconds from before the first epoch until after the last one of this process."""

    def __init__(self) -> None:
        self.fit_s = 0.0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._since = time.perf_counter()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.fit_s = time.perf_counter() - self._since

    def summary(self) -> dict[str, float]:
        return {"fit_s": self.fit_s}

    def recording(self) -> dict[str, Any]:
        return {}
