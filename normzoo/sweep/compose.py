"""Compose the configurations of a sweep: Hydra composes each choice of groups once, and each cell sets its values.

Composing a whole configuration takes Hydra about 90 ms. Most of that goes into the defaults list, which values have no
part in.
"""

import json
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from normzoo.sweep.hydra_errors import config_error, user_error
from normzoo.training.config import CellConfig, parse


@dataclass(frozen=True)
class Composition:
    """How one cell's configuration is made; small, and cheap to send to another process.

    Args:
        whole: What Hydra composed, pickled.
        values: Those of the cell's overrides that are still to be set.
        listed: Those that Hydra lists as the task's; None if Hydra composed this very cell.
        own: Entries of Hydra's node that belong to this cell alone.
    """

    whole: bytes
    values: tuple[Override, ...] = ()
    listed: tuple[Override, ...] | None = None
    own: dict[str, Any] = field(default_factory=dict)

    def config(self) -> DictConfig:
        """Make the configuration, Hydra's node included: equal to what Hydra composes from the same overrides.

        Raises:
            ValueError: If a value is added that is there already.
            omegaconf.errors.OmegaConfBaseException: If a value cannot be set.
        """
        config: DictConfig = pickle.loads(self.whole)
        for override in self.values:
            key, value, adds = override.key_or_group, override.value(), override.is_add()
            if adds and not isinstance(value, (dict, list)) and OmegaConf.select(config, key) is not None:
                raise ValueError(f"{key} is there already")
            OmegaConf.update(config, key, value, force_add=adds or override.is_force_add())
        if self.listed is not None:
            config.hydra.overrides.task = [override.input_line for override in self.listed]
            naming = config.hydra.job.config.override_dirname
            named = [str(one.input_line) for one in self.listed if one.key_or_group not in naming.exclude_keys]
            config.hydra.job.override_dirname = naming.item_sep.join(sorted(named)).replace("=", naming.kv_sep)
        with read_write(config.hydra), open_dict(config.hydra):
            for key, value in self.own.items():
                OmegaConf.update(config, key, value)
        return config


class Composer:
    """Composes the cells of one sweep.

    Args:
        loader: Hydra's.
        master: The configuration of the sweep itself.
        output_dir: What `${hydra:runtime.output_dir}` is while cells are planned.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig, output_dir: str) -> None:
        self.loader, self.master, self.output_dir = loader, master, output_dir
        self._parse = cache(OverridesParser.create().parse_override)
        self._is_group = cache(self._look_for_group)
        self._compose = cache(self._compose_by_hydra)

    def compose(self, overrides: Sequence[str]) -> tuple[CellConfig, Composition]:
        """Parse the configuration of a cell, and tell how to compose the whole of it where the cell runs.

        Raises:
            hydra.errors.HydraException: As Hydra raises it, for wrong overrides.
            UserError: If a file cannot be read, a value refers to something missing, or a key is missing or unread.
        """
        try:
            try:
                composition, raw = self._quickly(overrides)
                plain = self._resolve(composition.config())
            except Exception:  # Hydra reports what is wrong, or takes what is odd
                whole, raw = self._compose(tuple(overrides))
                composition = Composition(whole)
                plain = self._resolve(composition.config())
        except Exception as error:
            own = re.match(r"In '(?!train')", str(error))  # no command line asks for it
            told = user_error(error, overrides) if own else config_error(error, overrides)
            if told is None:
                raise
            raise told from error
        return parse(plain, overrides, raw), composition

    def _quickly(self, overrides: Sequence[str]) -> tuple[Composition, str]:
        """Have Hydra compose the groups, and leave the values to be set.

        Raises:
            Exception: If Hydra has to compose this very cell.
        """
        parsed = [self._parse(line) for line in overrides]
        chosen = [one for one in parsed if self._chooses(one)]
        values = tuple(one for one in parsed if not self._chooses(one))
        for deleted in (one for one in chosen if one.is_delete()):
            key = f"{deleted.key_or_group}."
            others = [f"{one.key_or_group}." for one in values]
            if deleted.value() is not None or any(other.startswith(key) or key.startswith(other) for other in others):
                raise ValueError(f"whether {key} is there depends on the order, or on values")
        whole, raw = self._compose(tuple(str(one.input_line) for one in chosen))
        return Composition(whole, values, tuple(one for one in parsed if not one.is_hydra_override())), raw

    def _chooses(self, override: Override) -> bool:
        """Whether the override has a part in the defaults list, or is left to Hydra for another reason."""
        if override.is_sweep_override() or override.is_delete() or override.package is not None:
            return True
        key = override.key_or_group
        return re.match(r"hydra\b", key) is not None or (not isinstance(override.value(), dict) and self._is_group(key))

    def _look_for_group(self, key: str) -> bool:
        hydras, name = list(self.master.hydra.overrides.hydra), self.master.hydra.job.config_name
        return bool(self.loader.get_group_options(key, None, name, hydras))

    def _compose_by_hydra(self, overrides: tuple[str, ...]) -> tuple[bytes, str]:
        whole = self.loader.load_sweep_config(self.master, list(overrides))
        written: Any = OmegaConf.to_container(whole, resolve=False)
        del written["hydra"]
        return pickle.dumps(whole), json.dumps(written, default=str)

    def _resolve(self, config: DictConfig) -> dict[str, Any]:
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = self.output_dir  # a logger's path refers to it; no part of the identity
        plain: dict[str, Any] = {}
        with _hydra_config(config):
            for key in map(str, config):
                value = "???" if OmegaConf.is_missing(config, key) else config[key]
                if key != "hydra":
                    plain[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        return plain


@contextmanager
def _hydra_config(node: Any) -> Iterator[None]:
    """Let `${hydra:...}` look things up in `node`."""
    holder = HydraConfig.instance()
    before = holder.cfg
    holder.cfg = node
    try:
        yield
    finally:
        holder.cfg = before
