"""What sets groups of cells apart, and how to call them."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeVar

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
    """Entries that only follow from the batch size, the devices or the seed, as a resolved learning rate does."""
    candidates = [key for key in keys if not key.startswith(_OWN_FACTS)]
    determining = (
        ("batch_size_per_device", "trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches"),
        ("seed",),
    )
    derived = set()
    for key in candidates:
        for axes in determining:
            seen: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
            for flat in flats:
                seen[tuple(flat.get(axis) for axis in axes)].add(flat.get(key))
            if all(len(values) == 1 for values in seen.values()):
                derived.add(key)
                break
    return frozenset(derived)


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
    ranked = sorted(names, key=lambda name: (_TELLING.index(name) if name in _TELLING else len(_TELLING), name))
    telling = telling_apart(settings, {name: itemgetter(name) for name in ranked})
    described = []
    for setting, example in zip(settings, examples, strict=True):
        label = ", ".join(_phrase(name, setting[name]) for name in telling)
        size = example.get("data.image_size")
        words = [
            f"{example.get('data.name', '?')} at {_phrase('data.image_size', size)}",
            str(example.get("model.name", "?")),
        ]
        words += [_phrase(name, setting[name]) for name in telling if name not in _TELLING[:3]]
        described.append((label, ", ".join(words)))
    return described


def _phrase(name: str, value: Any) -> str:
    if name == "data.image_size":
        return f"{value}×{value}" if isinstance(value, int) else "native size" if value is None else str(value)
    if name in ("data.name", "model.name"):
        return str(value)
    return f"{name.rpartition('.')[2]}={value}"
