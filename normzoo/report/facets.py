"""What sets groups of cells apart, and how to call them."""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeGuard, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

# Of several entries that split the cells alike, the one a reader would name comes first.
_TELLING = ("data.name", "data.image_size", "model.name", "data.train_size")
# A data set or a model is what it is; anything else that follows the batch size or the seed is only computed from it.
_OWN_FACTS = ("data.", "model.")


@dataclass(frozen=True)
class Setting:
    """A group of cells that may stand in one table: `label` is what sets it apart, `title` what it is."""

    index: int
    label: str
    title: str


def derived_entries(flats: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> frozenset[str]:
    """Find numbers that are only computed from the batch, as a scaled learning rate is, or from the seed.

    An optimizer that happens to stand beside certain batch sizes in two sweeps is not computed from them.
    """
    return frozenset(
        key
        for key in keys
        if not key.startswith(_OWN_FACTS)
        and (
            all(flat.get(key) == flat.get("seed") for flat in flats)
            or any(_scales([(batch(flat), flat.get(key)) for flat in flats]) for batch in (_batch, _global_batch))
        )
    )


def _batch(flat: Mapping[str, Any]) -> Any:
    return flat.get("batch_size_per_device")


def _global_batch(flat: Mapping[str, Any]) -> Any:
    factors = (flat.get(f"trainer.{name}") for name in ("devices", "num_nodes", "accumulate_grad_batches"))
    size = _batch(flat)
    return size and size * math.prod(filter(_is_count, factors))


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and value > 0


def _scales(pairs: Iterable[tuple[Any, Any]]) -> bool:
    """Whether the second is proportional to the first, to its root, or to the inverse of one of these."""
    found = set(pairs)
    if not all(_is_count(batch) and isinstance(value, (int, float)) and value > 0 for batch, value in found):
        return False
    factors = ([value / batch**power for batch, value in found] for power in (1, 0.5, -0.5, -1))
    return any(math.isclose(min(each), max(each), rel_tol=1e-6) for each in factors)


def telling_apart(items: Sequence[T], keys: Mapping[K, Callable[[T], Any]]) -> list[K]:
    """Of these keys, the first ones preferred, each that tells apart some of the items that those before it do not."""
    telling: list[K] = []
    classes = 1
    for key in keys:
        found = len({tuple(keys[one](item) for one in (*telling, key)) for item in items})
        if found > classes:
            telling.append(key)
            classes = found
    return telling


def describe(settings: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """A (label, title) for each setting: the entries that tell it from the others, and the whole phrase."""
    names = list(settings[0]) if settings else []
    telling = telling_apart(settings, {name: itemgetter(name) for name in sorted(names, key=_telling_order)})
    lasts = Counter(name.rpartition(".")[2] for name in telling)

    def words(setting: Mapping[str, Any], example: Mapping[str, Any], chosen: Sequence[str], full: bool) -> list[str]:
        # An option that a setting has not says nothing of it, unless nothing else does.
        own = [name for name in chosen if name in example] or chosen
        return [
            f"{name}={said(setting[name])}"
            if full
            else phrase(name, setting[name], name if lasts[name.rpartition(".")[2]] > 1 else "")
            for name in own
        ]

    pairs = list(zip(settings, examples, strict=True))
    labels = [", ".join(words(setting, example, telling, False)) for setting, example in pairs]
    full = len(set(labels)) < len(labels)
    described = []
    for (setting, example), label in zip(pairs, labels, strict=True):
        start = [
            f"{example.get('data.name', '?')} at {phrase('data.image_size', example.get('data.image_size'))}",
            str(example.get("model.name", "?")),
        ]
        rest = words(setting, example, [name for name in telling if name not in _TELLING[:3]], full)
        label = ", ".join(words(setting, example, telling, True)) if full else label
        described.append((label, ", ".join([*start, *rest])))
    return described


def _telling_order(name: str) -> tuple[Any, ...]:
    rank = _TELLING.index(name) if name in _TELLING else len(_TELLING)
    return rank, name.endswith("_target_"), not name.endswith(".name"), name


def phrase(name: str, value: Any, shown: str = "") -> str:
    """An entry of a configuration as a reader would say it: `sgd`, `8×8`, `base_lr=0.1`, `no callbacks`.

    Args:
        name: Of the entry, with its group.
        value: Of the entry.
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
    """A value of a configuration, as it is written in one, with all its digits."""
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    text = "null" if value is None else str(value)
    return text if text.isprintable() else repr(text)[1:-1]
