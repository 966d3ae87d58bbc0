"""The keys of a configuration: missing ones filled in, the recipe applied, unread ones rejected."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from normzoo.errors import UserError

# The required groups and keys, and their defaults as in conf/; None where there is none. Filling in more would rename
# cells that have trained without it.
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
_LISTS = ("probe", "callbacks")  # groups of which a cell may have several choices
_GROUPS = ("norm", "placement", "model", "data", "optimizer", "trainer", "logger", *_LISTS, "study", "recipe")

# The keys that are read of what no constructor takes; a constructor rejects unknown keys itself.
_READ = {
    "": {*_GROUPS, "seed", "batch_size_per_device", "evaluation", "sweep", "claim", "hydra"},
    "evaluation": {"train_samples", "population_samples"},
    "claim": {"name", "statement", "source", "quick", "grids"},
}

# Arguments that normzoo passes itself, and the option that sets each, if one does.
GIVEN = {
    "model.norm": "norm",
    "model.placement": "placement",
    "model.in_channels": None,
    "model.num_classes": None,
    "data.batch_size": "batch_size_per_device",
    "data.seed": "seed",
    "optimizer.lr": "optimizer.base_lr",
    "optimizer.params": "optimizer.trains",
    "trainer.callbacks": "callbacks",
    "trainer.logger": "logger",
    "trainer.default_root_dir": "hydra.run.dir",
    "trainer.plugins": None,
    "trainer.use_distributed_sampler": None,
    "trainer.num_sanity_val_steps": None,
    "trainer.enable_model_summary": None,
}

_FACTORS = ("lr", "weight_decay", "decay", "dropout", "distortion")
_SWITCHES = ("local_response_norm", "shuffle")

_SEVERAL = re.compile(rf"\+*({'|'.join(set(_GROUPS) - set(_LISTS))})(?:@\S*)?=\[(.*,.*)\]")


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the keys that a configuration lacks, and apply its recipe.

    Args:
        config: Resolved and plain; not modified.

    Raises:
        UserError: If a required key is missing, a group is not a mapping, or the recipe is wrong.
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
        for key in (key for key, value in default.items() if value is None):
            found = whole[group][key]
            if found in (None, "???"):
                of = f" of {group}={given['name']}" if given and key != "name" and "name" in given else ""
                how = f"add {group}.{key}" if given else f"choose one with {group}=..., or give {group}.{key}"
                raise UserError(f"{group}.{key}{of} is missing and has no default: {how}")
            if key != "base_lr" and not isinstance(found, str):
                raise UserError(f"{group}.{key}={found!r:.60} must be a name")
    for group in (*_LISTS, "study", "recipe", "claim", "sweep"):
        if not isinstance(whole.get(group) or {}, Mapping):
            raise UserError(f"{group}={whole[group]!r:.60} must be a mapping of options, or be left out")
    return apply_recipe(whole)


def apply_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Apply the ingredients of `config["recipe"]`: changes relative to the values of other groups.

    lr, weight_decay: factors on `optimizer.base_lr` and `optimizer.weight_decay`.
    decay: how many times faster an exponential schedule decays: divides `optimizer.decay_every`.
    dropout, distortion: factors on `model.dropout` and `data.distortion`.
    local_response_norm: false takes them out of the model.
    shuffle: true makes `data.order` shuffled.

    An ingredient that reduces or removes something that is missing does nothing; one that speeds up the decay of a
    schedule without any makes the cell invalid. The record has the resulting values; the ingredients move to
    `recipe.applied`, so that they are not applied twice.

    Args:
        config: Resolved and plain; not modified.

    Raises:
        UserError: If an ingredient is unknown or has a wrong value.
    """
    recipe = config.get("recipe")
    if not recipe or "applied" in recipe:
        return dict(config)
    ingredients = {key: value for key, value in recipe.items() if key != "name"}
    _check_ingredients(ingredients)
    optimizer, model, data = (dict(config.get(group) or {}) for group in ("optimizer", "model", "data"))
    decay = ingredients.get("decay", 1)
    for group, key, factor in (
        (optimizer, "base_lr", ingredients.get("lr", 1)),
        (optimizer, "weight_decay", ingredients.get("weight_decay", 1)),
        (optimizer, "decay_every", 1 if decay == 1 else 1 / decay),
        (model, "dropout", ingredients.get("dropout", 1)),
        (data, "distortion", ingredients.get("distortion", 1)),
    ):
        if factor != 1 and key in group:
            group[key] *= factor
    if decay != 1:
        optimizer.setdefault("decay_every", None)  # not the cell without the recipe, though there is nothing to divide
    if not ingredients.get("local_response_norm", True) and "local_response_norm" in model:
        model["local_response_norm"] = False
    if ingredients.get("shuffle", False) and "order" in data:
        data |= {"order": "shuffled", "classes_per_batch": None}
    changed = {"optimizer": optimizer, "model": model, "data": data}
    return {
        **config,
        **{group: value for group, value in changed.items() if config.get(group)},
        "recipe": {"name": recipe.get("name"), "applied": ingredients},
    }


def _check_ingredients(ingredients: Mapping[str, Any]) -> None:
    unknown = set(ingredients) - {*_FACTORS, *_SWITCHES}
    if unknown:
        raise UserError(f"recipe has {sorted(unknown)}: it takes {', '.join((*_FACTORS, *_SWITCHES))}")
    for key, value in ingredients.items():
        if key in _SWITCHES and not isinstance(value, bool):
            raise UserError(f"recipe.{key}={value!r} must be true or false")
        if key in _FACTORS:
            least = 0 if key in ("dropout", "distortion", "weight_decay") else None
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and value < float("inf")
            if not number or not (value > 0 or value == least):
                raise UserError(f"recipe.{key}={value!r} must be a {'positive ' if least is None else ''}factor")


def check_keys(config: Mapping[str, Any], overrides: Iterable[str] = (), raw: str = "") -> None:
    """Reject keys that nothing reads, and those that another option sets.

    Args:
        config: Complete.
        overrides: The overrides it was composed from.
        raw: Its text before interpolation, in which a referenced key counts as read.

    Raises:
        UserError: If there is such a key; the message suggests the right one.
    """
    overrides = list(overrides)
    for line in overrides:
        several = _SEVERAL.fullmatch(line)
        if several:
            group, first = several[1], several[2].split(",")[0].strip()
            raise UserError(f"{line}: a cell has one {group}: choose {group}={first}, or sweep over several with -m")
    for key in _unread(config):
        name = key.rpartition(".")[2]
        if not re.search(rf"\$\{{[^}}]*\b{re.escape(name)}\b", "\n".join([raw, *overrides])):
            raise UserError(f"nothing reads {key}; {meant_by(key)}")
    for group in _LISTS:
        for name, one in (config.get(group) or {}).items():
            if not isinstance(one, Mapping) or "_target_" not in one:
                raise UserError(
                    f"{group}.{name}={one!r:.60} must be a mapping with a _target_, or chosen by {group}=[{name}]"
                )
    for group in ("study", "logger"):
        options = set(config.get(group) or {}) - {"name"}
        if options and "_target_" not in options:
            raise UserError(f"{group} has {', '.join(sorted(map(str, options)))} and no _target_ that takes it")


def _unread(config: Mapping[str, Any]) -> Iterator[str]:
    for group, known in _READ.items():
        options = (config.get(group) or {}) if group else config
        yield from (f"{group}.{key}".lstrip(".") for key in options if key not in known)
    for name in GIVEN:
        group, _, key = name.partition(".")
        if key in config[group]:
            yield name


def meant_by(key: str) -> str:
    """Suggest what to write in place of a key that nothing reads."""
    group, _, name = key.rpartition(".")
    if key in GIVEN:
        return f"write {GIVEN[key]}=..." if GIVEN[key] else "normzoo sets it itself"
    known = sorted(_READ[group])
    near = [f"{group}.{one}".lstrip(".") for one in difflib.get_close_matches(name, known, n=1)]
    return f"did you mean {near[0]}?" if near else f"{group or 'a cell'} has {', '.join(known)}"
