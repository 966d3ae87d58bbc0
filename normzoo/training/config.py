"""A configuration as it comes from Hydra: what is missing is filled in, and what nothing reads is refused."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from normzoo.errors import UserError
from normzoo.training.recipe import apply_recipe
from normzoo.training.sweep_options import sweep_options

GROUPS = ("norm", "placement", "model", "data", "optimizer", "trainer", "logger", "probe", "study", "recipe")

# What a cell cannot do without, and what stands in for it as in conf/; None where nothing can. To fill in more would
# rename cells that have trained without it.
_DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "batch_size_per_device": 32,
    "norm": {"name": None},
    "placement": {},
    "model": {"_target_": None},
    "data": {"_target_": None},
    "optimizer": {
        "_target_": None, "base_lr": None, "base_batch": 32, "lr_rule": "linear", "schedule": "cosine",
        "milestones": [], "warmup": 0.0,
    },
    "trainer": {
        "accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto", "max_epochs": 2, "deterministic": True,
        "threads": 1, "enable_progress_bar": False,
    },
    "logger": {},
    "evaluation": {"train_samples": 5000, "population_samples": 1024},
}  # fmt: skip

# What is read where not every key of a group reaches a constructor, which refuses those it does not take.
_READ = {
    "": {*GROUPS, "seed", "batch_size_per_device", "evaluation", "sweep", "claim", "hydra"},
    "evaluation": {"train_samples", "population_samples"},
    "claim": {"name", "statement", "source", "quick", "grids"},
}

# Arguments that normzoo itself gives, and the option that decides them, if one does.
GIVEN = {
    "model.norm": "norm",
    "model.placement": "placement",
    "model.in_channels": None,
    "model.num_classes": None,
    "data.batch_size": "batch_size_per_device",
    "data.seed": "seed",
    "optimizer.lr": "optimizer.base_lr",
    "optimizer.params": "optimizer.trains",
    "trainer.callbacks": "probe",
    "trainer.logger": "logger",
    "trainer.default_root_dir": "hydra.run.dir",
    "trainer.plugins": None,
    "trainer.use_distributed_sampler": None,
    "trainer.num_sanity_val_steps": None,
    "trainer.enable_model_summary": None,
}

_SEVERAL = re.compile(rf"\+*({'|'.join(set(GROUPS) - {'probe'})})(?:@\S*)?=\[(.*,.*)\]")


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what it lacks and its recipe applied.

    Args:
        config: Resolved and plain; it is left as it is.

    Raises:
        UserError: If nothing can stand in for what is missing, or a group is no mapping.
    """
    whole = dict(config)
    for group, default in _DEFAULTS.items():
        if not isinstance(default, Mapping):
            whole.setdefault(group, default)
            continue
        given = whole.get(group)
        if not isinstance(given, Mapping | None):
            raise UserError(f"{group}={given!r:.60} must be a mapping of options, as those below conf/{group} are")
        whole[group] = {**default, **(given or {})}
        for key, value in default.items():
            found = whole[group][key]
            if value is None and found in (None, "???"):
                of = f" of {group}={given['name']}" if given and key != "name" and "name" in given else ""
                how = f"add {group}.{key}" if given else f"choose one with {group}=..., or give {group}.{key}"
                raise UserError(f"{group}.{key}{of} is missing, and nothing can stand in for it: {how}")
            if value is None and key != "base_lr" and not isinstance(found, str):
                raise UserError(f"{group}.{key}={found!r:.60} must be a name")
    for group in ("probe", "study", "recipe", "claim", "sweep"):
        if not isinstance(whole.get(group) or {}, Mapping):
            raise UserError(f"{group}={whole[group]!r:.60} must be a mapping of options, or be left out")
    return apply_recipe(whole)


def check_keys(config: Mapping[str, Any], overrides: Iterable[str] = (), raw: str = "") -> None:
    """Refuse what nothing reads, and what is given elsewhere.

    Args:
        config: From `complete`.
        overrides: That it was composed from.
        raw: Its text before references were resolved: a key that others refer to is read.

    Raises:
        UserError: Naming the key, and the one that was meant.
    """
    overrides = list(overrides)
    for line in overrides:
        several = _SEVERAL.fullmatch(line)
        if several:
            group, first = several[1], several[2].split(",")[0].strip()
            raise UserError(f"{line}: a cell has one {group}: choose {group}={first}, or sweep over several with -m")
    for key in unread(config):
        name = key.rpartition(".")[2]
        if not re.search(rf"\$\{{[^}}]*\b{re.escape(name)}\b", "\n".join([raw, *overrides])):
            raise UserError(f"nothing reads {key}; {meant_by(key)}")
    for name, probe in (config.get("probe") or {}).items():
        if not isinstance(probe, Mapping) or "_target_" not in probe:
            raise UserError(f"probe.{name}={probe!r:.60} is no probe: a mapping with a _target_, or probe=[{name}]")
    for group in ("study", "logger"):
        options = set(config.get(group) or {}) - {"name"}
        if options and "_target_" not in options:
            raise UserError(f"{group} has {', '.join(sorted(map(str, options)))} and no _target_ that takes it")
    sweep_options(config)


def check_hydra(config: Any) -> None:
    """Refuse what is not read of Hydra's own part of a configuration.

    Args:
        config: With Hydra's node.

    Raises:
        UserError: Naming the key.
    """
    sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    subdir = sweep.get("subdir")
    if subdir != "${hydra.job.num}":
        raise UserError(
            f"hydra.sweep.subdir={subdir}: a cell's folder has the name of the cell, by which a sweep goes on; leave "
            "it out, and choose the folder of the sweep with hydra.sweep.dir"
        )
    for line in config.hydra.overrides.hydra:
        node: Any = OmegaConf.structured(HydraConf)
        for name in line.lstrip("+~").partition("=")[0].split(".")[1:]:
            if not isinstance(node, DictConfig) or not is_dataclass(OmegaConf.get_type(node)):
                break  # whatever an engine or a callback may take
            if name not in node.keys():  # noqa: SIM118 (of itself it says that what is missing is not in it)
                raise UserError(f"{line}: nothing reads it; there are {', '.join(node)}")
            node = node._get_node(name)


def unread(config: Mapping[str, Any]) -> Iterator[str]:
    """The keys that nothing reads, or that normzoo gives itself."""
    for group, known in _READ.items():
        options = (config.get(group) or {}) if group else config
        yield from (f"{group}.{key}".lstrip(".") for key in options if key not in known)
    for name in GIVEN:
        group, _, key = name.partition(".")
        if key in config[group]:
            yield name


def meant_by(key: str, known: Sequence[str] | None = None) -> str:
    """What a key that nothing reads was meant to be.

    Args:
        known: The names it may have within its group.
    """
    group, _, name = key.rpartition(".")
    if key in GIVEN:
        return f"write {GIVEN[key]}=..." if GIVEN[key] else "normzoo gives it itself"
    known = sorted(known or _READ[group])
    near = [f"{group}.{one}".lstrip(".") for one in difflib.get_close_matches(name, known, n=1)]
    return f"did you mean {near[0]}?" if near else f"{group or 'a cell'} has {', '.join(known)}"
