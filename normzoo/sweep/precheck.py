"""Which cells cannot be, each question asked once.

What costs time is to build a model and to pass a batch through it, though without memory. Where the norms of a model
stand, and which shapes reach them, is the same whatever norm it is and, but for the number of samples, whatever batch:
that is found out once, with a stand-in for the norm, and each norm is then tried on those shapes alone.
"""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import RefusedError, UserError
from normzoo.training.check import check_optimizer, check_options, check_trainer
from normzoo.training.config import CellConfig
from normzoo.training.instantiate import build_data, build_model, build_norm, build_probes, build_study
from normzoo.training.shape_trace import check_shapes

# What a cell's check does not look at.
_IRRELEVANT = frozenset({"seed", "evaluation", "experiment", "sweep", "claim", "report", "probe"})
# And all that matters to whether the model takes the batches.
_SHAPES = ("norm", "placement", "model", "data", "batch_size_per_device")
_SHAPES_OF_TRAINER = ("devices", "num_nodes", "limit_train_batches", "accumulate_grad_batches")
_SAMPLES = 3  # of the batch that finds the shapes
_FEW_VALUES = 2**20


class Verdicts:
    """Whether cells can be; cells that differ in nothing that matters share the answer, and data sets are read once.

    Args:
        devices_here: Whether the cells run on this machine's devices.
    """

    def __init__(self, *, devices_here: bool = True) -> None:
        self.devices_here = devices_here
        self._data: dict[str, Any] = {}
        self._places: dict[str, Places | None] = {}
        self._tried: dict[str, Tried] = {}
        self._known: dict[str, str | None] = {}

    def of(self, config: CellConfig) -> tuple[str | None, int]:
        """Why the cell is refused, None if it is not, and the number of its training samples, 0 without any."""
        if config.invalid is not None:
            return config.invalid, 0
        try:
            if build_study(config):
                return None, 0  # it measures something of its own, and says itself what it cannot
            data = self._dataset(config)
        except UserError as error:
            return str(error), 0
        return self._refusal(config, data), data.num_train

    def _refusal(self, config: CellConfig, data: Any) -> str | None:
        plain = config.plain
        options = {key: value for key, value in plain.items() if key not in _IRRELEVANT}
        check = functools.partial(check_options, config, data, devices_here=self.devices_here)
        refused = self._once(_key("options", options), check)
        if refused is None:
            refused = self._once(_key("probe", config.probe), lambda: build_probes(config))
        if refused is None and self.devices_here:
            refused = self._once(_key("trainer", plain["trainer"]), lambda: check_trainer(config))
        if refused is None:
            key = _key("optimizer", plain["optimizer"], config.global_batch)
            refused = self._once(key, lambda: check_optimizer(config))
        if refused is None:
            shapes = [plain[key] for key in _SHAPES], [plain["trainer"].get(key) for key in _SHAPES_OF_TRAINER]
            key = _key("shapes", config.optimizer.trains, *shapes)
            refused = self._once(key, lambda: self._check_shapes(config, data))
        return refused

    def _once(self, key: str, check: Callable[[], object]) -> str | None:
        if key not in self._known:
            self._known[key] = None
            try:
                check()
            except UserError as error:
                self._known[key] = str(error)
        return self._known[key]

    def _check_shapes(self, config: CellConfig, data: Any) -> None:
        places = (
            self._places_in(config, data) if config.optimizer.trains == "all" else None
        )  # others look into the model
        if places is not None:
            samples = config.batch_size_per_device
            try:
                check_shapes(config, data, lambda: NormsAlone(self._tried_of(config), places, samples))
                return
            except RefusedError as error:
                if isinstance(error.__cause__, UserError):  # a norm says the same in its model
                    raise
        # Of what is unusual the model itself says best what it is.
        check_shapes(config, data, lambda: build_model(config, data.image_shape, data.num_classes))

    def _tried_of(self, config: CellConfig) -> "Tried":
        key = _key(config.norm)
        if key not in self._tried:
            self._tried[key] = Tried(build_norm(config))
        return self._tried[key]

    def _places_in(self, config: CellConfig, data: Any) -> "Places | None":
        key = _key(config.model, config.placement, data.image_shape, data.num_classes)
        if key not in self._places:
            self._places[key] = find_places(config, data)
        return self._places[key]

    def _dataset(self, config: CellConfig) -> Any:
        key = _key(config.data)
        if key not in self._data:
            # Whether a batch fits is asked of each cell.
            self._data[key] = _read(config.changed(batch_size_per_device=1))
        if isinstance(self._data[key], UserError):
            raise self._data[key]
        return self._data[key]


def _read(config: CellConfig) -> Any:
    """The data set, read; or why it cannot be."""
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


class Places:
    """Where the norms of a model stand: the channels they are built for, and the shapes that reach them, in order."""

    def __init__(self) -> None:
        self.channels: dict[int, None] = {}
        self.shapes: dict[tuple[int, tuple[int, ...]], None] = {}

    def norm(self, channels: int) -> nn.Module:
        """In place of a norm: notes what it is given, and changes nothing."""
        self.channels[channels] = None
        return _Place(self, channels)


class _Place(nn.Module):
    def __init__(self, places: Places, channels: int) -> None:
        super().__init__()
        self.places, self.channels = places, channels

    def forward(self, x: Tensor) -> Tensor:
        self.places.shapes[self.channels, tuple(x.shape)] = None
        return x


class Tried:
    """A norm as a sweep's cells have it: built once for each number of channels, and given the same input once."""

    def __init__(self, build: Callable[[int], nn.Module]) -> None:
        self.build = build
        self.norms: dict[tuple[str, int], nn.Module] = {}
        self.taken: set[tuple[Any, ...]] = set()


class NormsAlone(nn.Module):
    """The norms of a model without the model: `(N, *) ->` nothing, once each norm has been given N of its inputs.

    Args:
        samples: The largest N. Where their inputs are small they are real ones, which is faster than to do without.
    """

    def __init__(self, tried: Tried, places: Places, samples: int) -> None:
        super().__init__()
        self.shapes, self.taken = list(places.shapes), tried.taken
        values = samples * sum(math.prod(shape) for _, (_, *shape) in self.shapes)
        self.device = torch.device("cpu" if values <= _FEW_VALUES else "meta")
        self.norms = nn.ModuleDict()
        for channels in places.channels:
            key = self.device.type, channels
            if key not in tried.norms:
                with self.device:
                    tried.norms[key] = tried.build(channels)
            self.norms[str(channels)] = tried.norms[key]

    def forward(self, x: Tensor) -> None:
        for channels, (_, *shape) in self.shapes:
            norm = self.norms[str(channels)]
            # How many processes share a statistic is all that a norm is told besides.
            given = (channels, len(x), *shape, getattr(norm, "planned_processes", None))
            if given not in self.taken:
                with self.device:
                    norm(torch.zeros(len(x), *shape))
                self.taken.add(given)


def find_places(config: CellConfig, data: Any) -> Places | None:
    """Where the norms of the cell's model stand; None where that cannot be told for all norms and batches at once."""
    places = Places()
    try:
        with torch.device("meta"), torch.no_grad():
            model = build_model(config, data.image_shape, data.num_classes, places.norm)
            model.train()(torch.empty(_SAMPLES, *data.image_shape))
    except Exception:  # whatever the model may raise: it is asked again with its norm, and then says it to the user
        return None
    return places if all(shape[0] == _SAMPLES for _, shape in places.shapes) else None
