"""A sweep's configurations: Hydra composes each choice of groups once; each cell's values are set in a copy of it.

Composing a whole configuration takes Hydra about 90 ms, and most of that goes into the defaults list. Overrides that
only set values are applied afterwards, one by one, to what the defaults list gave: cells that differ in nothing but
values share the first part.
"""

import json
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from normzoo.sweep.hydra_errors import config_error, user_error
from normzoo.training.config import check_keys, complete

# The application of overrides is private to Hydra; any other version composes each cell itself.
_KNOWN_HYDRA = hydra.__version__.startswith("1.3.")
# The output folder is the one part of Hydra's node that a cell may look up and that is known before it runs.
_OUTPUT_DIR = r"\s*runtime\.output_dir\s*\}"
_LOOKS_UP_HYDRA = re.compile(rf"\$\{{\s*hydra\s*[:.](?!{_OUTPUT_DIR})")
_REFERENCE = re.compile(rf"\$\{{(?:hydra:{_OUTPUT_DIR}|(?P<key>[A-Za-z_][\w.]*)\}})")
_PLAIN = (int, float, bool, str, type(None))


@dataclass(frozen=True)
class Composition:
    """How one cell's configuration is made; small, and cheap to send to another process.

    Args:
        whole: Pickled: what Hydra composed of the groups.
        values: Those of the cell's overrides that are still to be applied.
        listed: Those that Hydra lists as the task's; None where Hydra composed this very cell.
        own: Entries of `hydra.job` and `hydra.sweep` that belong to this cell alone.
    """

    whole: bytes
    values: tuple[Override, ...] = ()
    listed: tuple[Override, ...] | None = None
    own: dict[str, Any] = field(default_factory=dict)

    def config(self) -> DictConfig:
        """The configuration, Hydra's node included: equal to what Hydra composes from the same overrides."""
        config: DictConfig = pickle.loads(self.whole)
        if self.listed is not None:
            ConfigLoaderImpl._apply_overrides_to_config(list(self.values), config)
            config.hydra.overrides.task = [override.input_line for override in self.listed]
            naming = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = get_overrides_dirname(
                overrides=list(self.listed),
                kv_sep=naming.kv_sep,
                item_sep=naming.item_sep,
                exclude_keys=naming.exclude_keys,
            )
        with read_write(config.hydra), open_dict(config.hydra):
            for key, value in self.own.items():
                OmegaConf.update(config, key, value)
        return config


@dataclass(frozen=True)
class _Groups:
    """What Hydra composed from the overrides that choose groups.

    Args:
        raw: The text of the task's part, its references as they are.
        resolved: Pickled: the plain form of the task's part; of None where values refer to what is still to be given.
        references: The keys that values refer to; None where they refer to what is not as easily told.
    """

    whole: bytes
    task: bytes
    hydra: Any
    raw: str
    looks_up_hydra: bool
    resolved: bytes
    references: frozenset[str] | None

    def with_values(self, values: Sequence[Override]) -> dict[str, Any] | None:
        """The plain configuration with plain values in place of others; None where it takes OmegaConf to tell."""
        if self.references is None:
            return None
        config: dict[str, Any] = pickle.loads(self.resolved)
        for override in values:
            key, value, node = override.key_or_group, override.value(), config
            *path, last = key.split(".")
            for name in path:
                node = node.get(name, {}) if type(node) is dict else {}
            changes = override.type is OverrideType.CHANGE and type(node) is dict and type(node.get(last, {})) in _PLAIN
            if not changes or type(value) not in _PLAIN or (type(value) is str and ("$" in value or value == "???")):
                return None
            if any(key == of or key.startswith(f"{of}.") for of in self.references):
                return None
            node[last] = value
        return config


class Composer:
    """Composes the cells of one sweep.

    Args:
        loader: Hydra's.
        master: The configuration of the sweep itself.
        output_dir: What `${hydra:runtime.output_dir}` is while cells are planned.
    """

    def __init__(self, loader: Any, master: DictConfig, output_dir: str) -> None:
        self.loader, self.master, self.output_dir = loader, master, output_dir
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        self._groups: dict[tuple[str, ...], _Groups] = {}
        self._is_group: dict[str, bool] = {}
        self._repository: Any = None

    def compose(self, overrides: Sequence[str]) -> tuple[dict[str, Any], Composition]:
        """The plain configuration of a cell, resolved, its recipe applied, and how it is composed whole where it runs.

        Raises:
            hydra.errors.HydraException: As Hydra raises it, for overrides that cannot be.
            UserError: If a file cannot be read, values refer to what is not there, or keys are missing or unread.
        """
        try:
            composed = self._quickly(overrides) if _KNOWN_HYDRA else None
            if composed is None:
                groups = self._split(self.loader.load_sweep_config(self.master, list(overrides)))
                config = pickle.loads(groups.resolved) or _resolved(pickle.loads(groups.task), groups.hydra)
                composed = config, Composition(groups.whole), groups.raw
        except Exception as error:
            own = str(error).startswith("In '") and not str(error).startswith(
                "In 'train'"
            )  # no command line asks for it
            told = user_error(error) if own else config_error(error)
            if told is None:
                raise
            raise told from error
        config, composition, raw = composed
        config = complete(config)
        check_keys(config, overrides, raw)
        return config, composition

    def _quickly(self, overrides: Sequence[str]) -> tuple[dict[str, Any], Composition, str] | None:
        """As composed, but for the defaults list, and its groups' text; None for what only Hydra can tell."""
        chosen: list[str] = []
        values: list[Override] = []
        listed: list[Override] = []
        for line in overrides:
            override = self._parse(line)
            if override is None or override.is_sweep_override():
                return None
            if not override.is_hydra_override():
                listed.append(override)
            if re.match(r"hydra\b", override.key_or_group) or override.package is not None or self._chooses(override):
                chosen.append(line)
            elif override.is_delete() and override.value() is not None:
                return None  # it compares with what is there, which may be looked up anywhere
            else:
                values.append(override)
        groups = self._compose_groups(tuple(chosen))
        if groups.looks_up_hydra or any(_LOOKS_UP_HYDRA.search(override.input_line or "") for override in values):
            return None
        config = groups.with_values(values)
        if config is None:
            task: DictConfig = pickle.loads(groups.task)
            try:
                ConfigLoaderImpl._apply_overrides_to_config(values, task)
            except Exception:
                return None  # Hydra says what is wrong with them
            config = _resolved(task, groups.hydra)
        return config, Composition(groups.whole, tuple(values), tuple(listed)), groups.raw

    def _parse(self, line: str) -> Override | None:
        if line not in self._parsed:
            try:
                self._parsed[line] = self._parser.parse_override(line)
            except Exception:
                return None  # Hydra says what is wrong with it
        return self._parsed[line]

    def _chooses(self, override: Override) -> bool:
        """Whether Hydra takes the override for a choice of a group, and not for a value."""
        if isinstance(override.value(), dict):
            return False
        key = override.key_or_group
        if key not in self._is_group:
            if self._repository is None:
                hydras = list(self.master.hydra.overrides.hydra)
                name = self.master.hydra.job.config_name
                self._repository = self.loader._parse_overrides_and_create_caching_repo(name, hydras)[1]
            self._is_group[key] = self._repository.group_exists(key)
        return self._is_group[key]

    def _compose_groups(self, chosen: tuple[str, ...]) -> _Groups:
        if chosen not in self._groups:
            self._groups[chosen] = self._split(self.loader.load_sweep_config(self.master, list(chosen)))
        return self._groups[chosen]

    def _split(self, whole: DictConfig) -> _Groups:
        pickled = pickle.dumps(whole)
        with read_write(whole.hydra.runtime), open_dict(whole.hydra.runtime):
            whole.hydra.runtime.output_dir = self.output_dir  # a logger's path refers to it; no part of the identity
        task: DictConfig = pickle.loads(pickled)
        with read_write(task), open_dict(task):
            del task["hydra"]
        raw = json.dumps(OmegaConf.to_container(task, resolve=False), default=str)
        try:
            resolved, references = _resolved(task, whole), _references(raw)
        except OmegaConfBaseException:
            resolved, references = None, None  # it takes the values of a cell
        return _Groups(
            pickled,
            pickle.dumps(task),
            whole,
            raw,
            bool(_LOOKS_UP_HYDRA.search(raw)),
            pickle.dumps(resolved),
            references,
        )


def _references(raw: str) -> frozenset[str] | None:
    """The keys that `${...}` in a configuration refers to; None if one refers to anything else."""
    found = list(_REFERENCE.finditer(raw))
    if len(found) < raw.count("${"):
        return None
    return frozenset(match["key"] for match in found if match["key"])


def _resolved(task: DictConfig, hydra_node: Any) -> dict[str, Any]:
    with _hydra_config(hydra_node):
        return cast(dict[str, Any], OmegaConf.to_container(task, resolve=True))


@contextmanager
def _hydra_config(node: Any) -> Iterator[None]:
    """What `${hydra:...}` looks up, for a while."""
    holder = HydraConfig.instance()
    before = holder.cfg
    holder.cfg = node
    try:
        yield
    finally:
        holder.cfg = before
