"""Which cells cannot be, each question asked once."""

import json
from typing import Any

from normzoo.errors import UserError
from normzoo.training.build import Config, build_data
from normzoo.training.check import RefusedError, check_cell, missing_options

# What a cell's check does not look at.
_IRRELEVANT = frozenset({"seed", "evaluation", "logger", "experiment", "sweep", "claim", "report", "probe"})


class Verdicts:
    """Whether cells can be; cells that differ in nothing that matters share the answer, and data sets are read once.

    Args:
        devices_here: Whether the cells run on this machine's devices.
        lenient: Whether an option that is wrong whatever it is combined with refuses its cell, and not the whole sweep.
    """

    def __init__(self, *, devices_here: bool = True, lenient: bool = False) -> None:
        self.devices_here, self.lenient = devices_here, lenient
        self._data: dict[str, Any] = {}
        self._known: dict[str, str | None] = {}

    def of(self, config: Config) -> tuple[str | None, int]:
        """Why the cell is refused, None if it is not, and the number of its training samples, 0 for a study.

        Raises:
            UserError: If an option is wrong in itself, or data is missing.
        """
        if config.get("study"):
            return None, 0  # it measures something of its own, and says itself what it cannot
        data = self._dataset(config)
        relevant = {key: value for key, value in config.items() if key not in _IRRELEVANT}
        key = json.dumps([relevant, list(missing_options(config))], sort_keys=True, default=str)
        if key not in self._known:
            self._known[key] = self._check(config, data)
        return self._known[key], data.num_train

    def _check(self, config: Config, data: Any) -> str | None:
        try:
            check_cell(config, data, devices_here=self.devices_here)
        except RefusedError as error:
            return str(error)
        except UserError as error:
            if self.lenient:
                return str(error)
            raise
        return None

    def _dataset(self, config: Config) -> Any:
        key = json.dumps(config["data"], sort_keys=True, default=str)
        if key not in self._data:
            # Whether a batch fits is asked of each cell.
            data: Any = build_data({**config, "batch_size_per_device": 1})
            data.prepare_data()
            data.setup("fit")
            self._data[key] = data
        return self._data[key]
