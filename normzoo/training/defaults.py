"""What a configuration leaves out is filled in, and its recipe is applied."""

from collections.abc import Mapping
from typing import Any

from normzoo.errors import UserError

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

FACTORS = ("lr", "weight_decay", "decay", "dropout", "distortion")
SWITCHES = ("local_response_norm", "shuffle")


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what a configuration lacks, and apply its recipe.

    Args:
        config: Resolved and plain; it is left as it is.

    Raises:
        UserError: If nothing can stand in for what is missing, a group is no mapping, or an ingredient cannot be.
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


def apply_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Apply the ingredients of `config["recipe"]`, changes relative to whatever the other groups say.

    lr, weight_decay: factors on `optimizer.base_lr` and `optimizer.weight_decay`.
    decay: how many times faster an exponential schedule decays: divides `optimizer.decay_every`.
    dropout, distortion: factors on `model.dropout` and `data.distortion`.
    local_response_norm: false takes them out of the model.
    shuffle: true makes `data.order` shuffled.

    What is to be reduced or taken out and is not there needs nothing done; a schedule that decays at no rate refuses
    the cell later, so that a plan can name it. The record has the values that result; the ingredients stand beside them
    under `recipe.applied`, so that they are not applied twice.

    Args:
        config: Resolved and plain; it is left as it is.

    Raises:
        UserError: If an ingredient is unknown or not a number.
    """
    recipe = config.get("recipe")
    if not recipe or "applied" in recipe:
        return dict(config)
    ingredients = {key: value for key, value in recipe.items() if key != "name"}
    _check_ingredients(ingredients)
    optimizer, model, data = (dict(config.get(group) or {}) for group in ("optimizer", "model", "data"))

    _multiply(optimizer, "base_lr", ingredients.get("lr", 1))
    _multiply(optimizer, "weight_decay", ingredients.get("weight_decay", 1))
    decay = ingredients.get("decay", 1)
    if decay != 1:
        _multiply(optimizer, "decay_every", 1 / decay)
        optimizer.setdefault("decay_every", None)  # not the cell without the recipe, though there is nothing to divide
    _multiply(model, "dropout", ingredients.get("dropout", 1))
    _multiply(data, "distortion", ingredients.get("distortion", 1))
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


def _multiply(group: dict[str, Any], key: str, factor: float) -> None:
    if factor != 1 and key in group:
        group[key] = group[key] * factor


def _check_ingredients(ingredients: Mapping[str, Any]) -> None:
    unknown = set(ingredients) - {*FACTORS, *SWITCHES}
    if unknown:
        raise UserError(f"recipe has {sorted(unknown)}: it takes {', '.join((*FACTORS, *SWITCHES))}")
    for key, value in ingredients.items():
        if key in SWITCHES and not isinstance(value, bool):
            raise UserError(f"recipe.{key}={value!r} must be true or false")
        if key in FACTORS:
            least = 0 if key in ("dropout", "distortion", "weight_decay") else None
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and value < float("inf")
            if not number or not (value > 0 or value == least):
                raise UserError(f"recipe.{key}={value!r} must be a {'positive ' if least is None else ''}factor")
