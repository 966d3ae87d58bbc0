"""Turn a list of grids into one list of cells."""

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from normzoo.errors import UserError
from normzoo.sweep.hydra_errors import interval_error
from normzoo.text import wrapped

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import NormzooSweeper, OptunaSweeper

log = logging.getLogger("normzoo")

# How many images to take is an option of each data set's own.
_OF_ONE_DATA_SET = frozenset({"data.train_size", "data.val_size"})


def sweep(sweeper: "NormzooSweeper", arguments: list[str]) -> Any:
    """Launch every cell of every grid into one sweep folder."""
    assert sweeper.launcher is not None
    prune = OmegaConf.select(cast(Any, sweeper.config), "sweep.prune")
    if prune not in (None, "none"):
        raise UserError(f"sweep.prune={prune} ends trials of a search: add hydra/sweeper=optuna, or leave it out")
    return [sweeper.launcher.launch(cells(sweeper, arguments), initial_job_idx=0)]


def cells(sweeper: "NormzooSweeper", arguments: list[str]) -> list[list[str]]:
    """List the overrides of every cell once: the product of each grid's axes, one grid after the other.

    If an argument replaces the choice of a grid from a group, the options that the grid has set for its own choice are
    left out; if the grid makes no choice there, those that the argument's choice does not have, and the number of
    images.

    Args:
        sweeper: Set up by Hydra; its `grids` are mappings from an override to its comma-separated values.
        arguments: The command line's overrides, which apply to every grid and take precedence over it.
    """
    parser = OverridesParser.create(config_loader=cast(Any, GlobLoader(sweeper)))
    params = [f"{key}={value}" for key, value in sweeper.params.items()]
    parsed = parser.parse_overrides(arguments)
    several = [one for one in parsed if one.key_or_group == "experiment" and one.is_discrete_sweep()]
    if several:  # each with its own grids
        each = [f"experiment={name}" for name in several[-1].sweep_string_iterator()]
        others = [one.input_line or "" for one in parsed if one.key_or_group != "experiment"]
        found = [cell for name in each for cell in cells(_with_experiment(sweeper, name), [*others, name])]
        return [list(cell) for cell in dict.fromkeys(map(tuple, found))]
    given = _Given(sweeper, parsed)
    listed: dict[tuple[str, ...], None] = {}
    left_out: dict[str, dict[str, list[str]]] = {}
    grids = sweeper.grids or [{}]
    if isinstance(grids, str) or not all(isinstance(grid, Mapping | DictConfig) for grid in grids):
        raise UserError(f"hydra.sweeper.grids={grids} must be a list of mappings from an option to its values")
    for number, grid in enumerate(grids, start=1):
        overrides = [*params]
        for key, value in grid.items():
            replaced_by = given.replaces(key, grid)
            if replaced_by is not None:
                left_out.setdefault(replaced_by, {}).setdefault(key, []).append(str(number))
            elif key.lstrip("+") not in given.choices:
                overrides.append(f"{key}={value}")
        axes = parser.parse_overrides([*overrides, *arguments])
        _check_axes(axes)
        for batch in sweeper.split_arguments(axes, None):
            listed.update(dict.fromkeys(tuple(cell) for cell in batch))
    for argument, keys in left_out.items():
        of = [f"{key} (grid{'s' * (len(grids) > 1)} {', '.join(grids)})" for key, grids in keys.items()]
        line = f"left out of hydra.sweeper.grids, as options of what {argument} replaces: {', '.join(of)}"
        log.info("%s", wrapped(line))
    return [list(cell) for cell in listed]


def _with_experiment(sweeper: "NormzooSweeper", experiment: str) -> "NormzooSweeper":
    """Return the sweeper as this experiment configures it."""
    loaded = _load(sweeper, [experiment]).hydra.sweeper
    own = copy.copy(sweeper)
    own.grids, own.params = loaded.grids or [], loaded.params or {}
    return own


def _load(sweeper: "NormzooSweeper", overrides: list[str]) -> DictConfig:
    assert sweeper.hydra_context is not None
    assert sweeper.config is not None
    return sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, overrides)


def _check_axes(axes: Sequence[Override]) -> None:
    """Refuse an axis without a list of values.

    Raises:
        UserError: Naming the override, and what it may be.
    """
    for axis in axes:
        line = axis.input_line or ""
        if axis.is_interval_sweep():
            raise interval_error(line)
        if axis.is_discrete_sweep() and next(axis.sweep_string_iterator(), None) is None:
            glob = f"no choice of {axis.key_or_group} matches; normzoo train --help lists them"
            raise UserError(f"{line}: {glob if isinstance(axis.value(), Glob) else 'it has no values'}")


class GlobLoader:
    """Where a glob finds its choices: Hydra's own loader would leave out the command line's search path."""

    def __init__(self, sweeper: "NormzooSweeper | OptunaSweeper") -> None:
        assert sweeper.hydra_context is not None
        assert sweeper.config is not None
        self._loader = sweeper.hydra_context.config_loader
        given: list[str] = list(sweeper.config.hydra.overrides.hydra)
        self._searchpath = [one for one in given if one.lstrip("+").startswith("hydra.searchpath=")]

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        """Return the choices of a group, as Hydra's loader does for a glob."""
        return self._loader.get_group_options(group_name, results_filter, None, self._searchpath)


class _Given:
    """The command line's overrides, and what they choose from groups.

    Args:
        sweeper: Set up by Hydra.
        arguments: Parsed.
    """

    def __init__(self, sweeper: "NormzooSweeper", arguments: list[Override]) -> None:
        self.sweeper = sweeper
        self.written = {one.key_or_group: one.input_line or "" for one in arguments}
        self.choices: dict[str, list[str]] = {}
        self._composed: dict[str, list[DictConfig]] = {}
        for one in arguments:
            values = one.sweep_string_iterator() if one.is_discrete_sweep() else None
            self.choices[one.key_or_group] = (
                [one.input_line or ""] if values is None else [f"{one.get_key_element()}={value}" for value in values]
            )

    def replaces(self, key: str, grid: Mapping[str, Any]) -> str | None:
        """Return the argument that removes `key` from `grid`; None if the key stays, or is given itself."""
        key = key.lstrip("+")
        group = key.split(".")[0]
        if group == key or group not in self.choices or key in self.choices:
            return None
        if group not in grid and key not in _OF_ONE_DATA_SET and self._has(group, key):
            return None
        return self.written[group]

    def _has(self, group: str, key: str) -> bool:
        """Whether everything that is chosen from the group has this option."""
        if group not in self._composed:
            self._composed[group] = list(self._compose(group))
        path, _, last = key.rpartition(".")
        nodes = [OmegaConf.select(config, path) for config in self._composed[group]]
        return all(isinstance(node, DictConfig) and last in list(node) for node in nodes)

    def _compose(self, group: str) -> Iterator[DictConfig]:
        others = [choices[0] for of, choices in self.choices.items() if of != group]
        for choice in self.choices[group]:
            with contextlib.suppress(HydraException):  # its error is reported when the cells are planned
                yield _load(self.sweeper, [*others, choice])
