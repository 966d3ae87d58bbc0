"""Find what sets groups of cells apart, and how to name them."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import pandas as pd

ABSENT = "—"  # the value of an entry that a cell does not have
# Of several entries that split the cells alike, the one a reader would name comes first.
_TELLING = ("data.name", "data.image_size", "model.name", "data.train_size")
# A data set or a model is what it is; anything else that follows the batch size or the seed is only computed from it.
_OWN_FACTS = ("data.", "model.")


@dataclass(frozen=True)
class Setting:
    """A group of cells that can share a table: `label` tells it from the others, `title` describes it in full."""

    index: int
    label: str
    title: str


def derived_entries(configs: pd.DataFrame, keys: Iterable[str]) -> frozenset[str]:
    """Find numbers that are only computed from the batch, as a scaled learning rate is, or from the seed.

    An optimizer that happens to go with certain batch sizes in two sweeps is not computed from them.
    """
    absent = pd.Series(ABSENT, configs.index)
    batch, seed = configs.get("batch_size_per_device", absent), configs.get("seed", absent)
    together = batch
    for name in ("devices", "num_nodes", "accumulate_grad_batches"):
        together = together * configs.get(f"trainer.{name}", absent).map(lambda value: value if _is_count(value) else 1)
    batches = [batch, together] if batch.map(_is_count).all() else []
    return frozenset(
        key
        for key in keys
        if not key.startswith(_OWN_FACTS)
        and ((configs[key] == seed).all() or any(_scales(zip(each, configs[key], strict=True)) for each in batches))
    )


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and value > 0


def _scales(pairs: Iterable[tuple[Any, Any]]) -> bool:
    """Return whether the second is proportional to the first, to its root, or to the inverse of one of these."""
    found = set(pairs)
    if not all(isinstance(value, (int, float)) and value > 0 for _, value in found):
        return False
    factors = ([value / batch**power for batch, value in found] for power in (1, 0.5, -0.5, -1))
    return any(math.isclose(min(each), max(each), rel_tol=1e-6) for each in factors)


def telling_apart(frame: pd.DataFrame) -> list[str]:
    """Choose columns from the left, each that tells apart some rows that those before it do not."""
    telling = []
    groups, count = pd.Series(0, frame.index), 1
    for key in frame:
        finer = frame.groupby([groups, frame[key]], sort=False, dropna=False).ngroup()
        if finer.nunique() > count:
            telling.append(key)
            groups, count = finer, finer.nunique()
    return telling


def describe(settings: pd.DataFrame, examples: pd.DataFrame) -> dict[Any, tuple[str, str]]:
    """Return the label and title of each setting: the entries that tell it from the others, and the whole phrase.

    Args:
        settings: A row per setting, a column per entry in which they differ.
        examples: The whole config of one cell of each.
    """
    telling = telling_apart(settings[sorted(settings, key=_telling_order)])
    lasts = Counter(name.rpartition(".")[2] for name in telling)

    def words(i: Any, chosen: Sequence[str], full: bool) -> list[str]:
        # An option that a setting does not have says nothing about it, unless nothing else does.
        own = [name for name in chosen if examples.at[i, name] != ABSENT] or chosen
        return [
            f"{name}={said(settings.at[i, name])}"
            if full
            else phrase(name, settings.at[i, name], name if lasts[name.rpartition(".")[2]] > 1 else "")
            for name in own
        ]

    labels = {i: ", ".join(words(i, telling, False)) for i in settings.index}
    full = len(set(labels.values())) < len(labels)
    described = {}
    for i, label in labels.items():
        example = examples.loc[i]
        example = example[example != ABSENT]
        start = [
            f"{example.get('data.name', '?')} at {phrase('data.image_size', example.get('data.image_size'))}",
            str(example.get("model.name", "?")),
        ]
        rest = words(i, [name for name in telling if name not in _TELLING[:3]], full)
        described[i] = ", ".join(words(i, telling, True)) if full else label, ", ".join([*start, *rest])
    return described


def _telling_order(name: str) -> tuple[Any, ...]:
    rank = _TELLING.index(name) if name in _TELLING else len(_TELLING)
    return rank, name.endswith("_target_"), not name.endswith(".name"), name


def phrase(name: str, value: Any, shown: str = "") -> str:
    """Write an entry of a config as a reader would say it: `sgd`, `8×8`, `base_lr=0.1`, `no callbacks`.

    Args:
        name: The full name of the entry.
        value: Its value.
        shown: What to call it; the last part of its name by default.
    """
    last = name.rpartition(".")[2]
    if name == "data.image_size":
        return f"{value}×{value}" if isinstance(value, int) else "native size" if value is None else str(value)
    if value is None:
        return f"no {shown or last}"
    targets = re.findall(r"[\w.]*?(\w+)$" if last == "_target_" else r'"_target_": "(?:[\w.]*\.)?(\w+)"', str(value))
    if targets:
        return " and ".join(targets) if last == "_target_" else f"{shown or last}={' and '.join(targets)}"
    return said(value) if last == "name" else f"{shown or last}={said(value)}"


def said(value: Any) -> str:
    """Write a value as in a config, with all its digits."""
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    text = "null" if value is None else str(value)
    return text if text.isprintable() else repr(text)[1:-1]
