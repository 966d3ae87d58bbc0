"""Check which cells of a sweep can run, each question asked once."""

import functools
import json
from collections.abc import Callable
from typing import Any

from normzoo.errors import UserError
from normzoo.training.check import check_optimizer, check_options, check_trainer
from normzoo.training.config import CellConfig
from normzoo.training.instantiate import build_data, build_model, build_probes, build_study
from normzoo.training.shape_trace import check_shapes

# What a cell's check does not look at.
_IRRELEVANT = frozenset({"seed", "evaluation", "experiment", "sweep", "claim", "report", "probe"})
# What decides whether the model takes the batches.
_SHAPES = ("norm", "placement", "model", "data", "batch_size_per_device")
_SHAPES_OF_TRAINER = ("devices", "num_nodes", "limit_train_batches", "accumulate_grad_batches")


class Precheck:
    """Answers whether cells can run; cells alike in all that matters share the answer, and data sets are read once.

    Args:
        devices_here: Whether the cells run on this machine's devices.
    """

    def __init__(self, *, devices_here: bool = True) -> None:
        self.devices_here = devices_here
        self._data: dict[str, Any] = {}
        self._known: dict[str, str | None] = {}

    def of(self, config: CellConfig) -> tuple[str | None, int]:
        """Return why the cell is refused, None if it is not, and the number of its training samples, 0 without any."""
        if config.invalid is not None:
            return config.invalid, 0
        try:
            if build_study(config):
                return None, 0  # it measures something of its own, and reports itself what it cannot
            data = self._dataset(config)
        except UserError as error:
            return str(error), 0
        return self._refusal(config, data), data.num_train

    def _refusal(self, config: CellConfig, data: Any) -> str | None:
        plain = config.plain
        options = {key: value for key, value in plain.items() if key not in _IRRELEVANT}
        shapes = [plain[key] for key in _SHAPES], [plain["trainer"].get(key) for key in _SHAPES_OF_TRAINER]
        check_of_options = functools.partial(check_options, config, data, devices_here=self.devices_here)
        # Of what is unusual the model itself gives the best account.
        build = functools.partial(build_model, config, data.image_shape, data.num_classes)
        questions: list[tuple[str, Callable[[], object]]] = [
            (_key("options", options), check_of_options),
            (_key("probe", config.probe), lambda: build_probes(config)),
            (_key("optimizer", plain["optimizer"], config.global_batch), lambda: check_optimizer(config)),
            (_key("shapes", config.optimizer.trains, *shapes), lambda: check_shapes(config, data, build)),
        ]
        if self.devices_here:
            questions.insert(2, (_key("trainer", plain["trainer"], config.callbacks), lambda: check_trainer(config)))
        return next((refused for key, check in questions if (refused := self._once(key, check)) is not None), None)

    def _once(self, key: str, check: Callable[[], object]) -> str | None:
        if key not in self._known:
            self._known[key] = None
            try:
                check()
            except UserError as error:
                self._known[key] = str(error)
        return self._known[key]

    def _dataset(self, config: CellConfig) -> Any:
        key = _key(config.data)
        if key not in self._data:
            # Whether a batch fits is asked of each cell.
            self._data[key] = _read(config.changed(batch_size_per_device=1))
        if isinstance(self._data[key], UserError):
            raise self._data[key]
        return self._data[key]


def _read(config: CellConfig) -> Any:
    """Read the data set; return the error if that fails."""
    try:
        data: Any = build_data(config)
        data.prepare_data()
        getattr(data, "survey", lambda: data.setup("fit"))()
    except UserError as error:
        return error
    except Exception as error:  # whatever a data module of the user's raises
        return UserError(
            f"data={config.data.get('name') or config.data.get('_target_')}: {type(error).__name__}: {error}"
        )
    return data


def _key(*parts: Any) -> str:
    return json.dumps(parts, default=str)
