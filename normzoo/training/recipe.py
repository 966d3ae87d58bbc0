"""A recipe: changes to how a cell trains, relative to whatever its other groups say."""

from collections.abc import Mapping
from typing import Any

from normzoo.errors import UserError

FACTORS = ("lr", "weight_decay", "decay", "dropout", "distortion")
SWITCHES = ("local_response_norm", "shuffle")


def apply_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the ingredients of `config["recipe"]` in it.

    lr, weight_decay: factors on `optimizer.base_lr` and `optimizer.weight_decay`.
    decay: how many times faster an exponential schedule decays: divides `optimizer.decay_every`.
    dropout, distortion: factors on `model.dropout` and `data.distortion`.
    local_response_norm: false takes them out of the model.
    shuffle: true makes `data.order` shuffled.

    What is to be reduced or taken out and is not there needs nothing done; a schedule that decays at no rate is left to
    `check_recipe`, so that a plan can name the cell. The record has the values that result; the
    ingredients stand beside them under `recipe.applied`, so that they are not applied twice.

    Args:
        config: Resolved and plain; it is left as it is.

    Raises:
        UserError: If an ingredient is unknown or not a number.
    """
    recipe = config.get("recipe")
    if not recipe or "applied" in recipe:
        return dict(config)
    ingredients = {key: value for key, value in recipe.items() if key != "name"}
    _check(ingredients)
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


def _check(ingredients: Mapping[str, Any]) -> None:
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
