"""The registry of norms: register, find and build a norm by name."""

import difflib
import functools
import importlib.util
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from torch import nn

from normzoo import plugins
from normzoo.leaf import make_leaf
from normzoo.norm_act import NormFactory, build_norm, finish
from normzoo.norm_info import (
    FACTS,
    UNSCRIPTED,
    Kind,
    NormInfo,
    UnknownArgumentError,
    UnknownNormError,
    check_facts,
    check_signature,
)
from normzoo.validation import check_num_features, check_values

__all__ = [
    "FACTS",
    "NormInfo",
    "UnknownArgumentError",
    "UnknownNormError",
    "create",
    "factory",
    "info",
    "list_norms",
    "norm_layers",
    "register",
]

Build = TypeVar("Build", bound=Callable[..., nn.Module])

HYDRA_TARGET = "normzoo.registry.hydra_factory"  # the `_target_` of a config of conf/norm

_infos: dict[str, NormInfo] = {}
_names: dict[str, str] = {}  # key of a name or alias -> name
# Not the plug-ins' lock: a plug-in registers its norms while it is being loaded, perhaps from another thread.
_table_lock = threading.Lock()


# Names of other libraries' classes that differ from our norm of nearly the same name.
AMBIGUOUS = {
    "layernorm": "that of torch and timm, of the last dimension, is 'nn.LayerNorm' here; of channels and positions it "
    "is 'layer_norm', and of the channels at each position 'layer_norm_channel'",
    "rmsnorm": "that of torch and timm, of the last dimension, is 'nn.RMSNorm' here; of the channels it is 'rms_norm'",
    "localresponsenorm": "that of torch is 'nn.LocalResponseNorm' here; with alpha and k of its paper it is "
    "'local_response_norm'",
    "globalresponsenorm": "that of timm is 'global_response_norm' with channel_dim=-1; for channels first it is "
    "'global_response_norm' alone",
}


def _key(name: str) -> str:
    """Normalize a name: ignore case, `_ - .`, spaces, and a leading `torch.nn.` or `nn.`."""
    return re.sub(r"[-_.\s]", "", re.sub(r"^\s*(torch\.)?nn\.", "", name.lower()))


def _alias_key(alias: str, options: object) -> str:
    """Normalize an alias as `_key` does, but keep `nn.LayerNorm`, an alias with options, apart from `layer_norm`."""
    key, of_torch = _key(alias), re.match(r"\s*(torch\.)?nn\.", alias.lower())
    return f"nn.{key}" if options and of_torch else key


def register(  # noqa: D417  # NormInfo documents the facts
    name: str,
    *,
    batch_dependent: bool,
    aliases: Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
    paper: str = "",
    reduces_over: str = "",
    train_eval_differ: bool = False,
    state: Sequence[str] = (),
    minimum_count: int | None = None,
    ranks: Sequence[int] = (2, 3, 4, 5),
    fused: bool = False,
    includes_activation: bool = False,
    unsupported: Sequence[str] = UNSCRIPTED,
    peers: Sequence[str] = (),
    kind: Kind = "layer",
) -> Callable[[Build], Build]:
    """Register the decorated class or function as the norm called `name`.

    It takes the number of channels first and its options by keyword, without `**kwargs`, so that a misspelt option is
    found before anything is built. The other arguments are the facts of `NormInfo`.

    Redefining a class or function under the same module and qualified name (`importlib.reload`, a notebook cell run
    twice) replaces the earlier one; existing layers keep the old class.

    Args:
        name: In snake case; also the name of the file `conf/norm/<name>.yaml`.
        aliases: Other names; `_ - .`, spaces, case and a leading `torch.nn.` make no difference. A mapping gives each
            alias the options that it stands for: `{"BN2d": {"eps": 1e-3}}`.

    Raises:
        ValueError: If the name or an alias is taken by another norm, or the name is not in snake case.
        TypeError: If the decorated object takes `**kwargs` or no positional argument.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise ValueError(f"a norm's name must be in snake case, such as 'group_norm'; got {name!r}")
    if isinstance(aliases, str) or isinstance(state, str):
        raise TypeError(f"{name}: aliases and state must be sequences of strings, not one string")
    if kind not in get_args(Kind):
        raise ValueError(f"{name}: unknown kind {kind!r}; choose one of {', '.join(get_args(Kind))}")

    def decorate(build: Build) -> Build:
        check_signature(name, build)
        module = getattr(build, "__module__", None) or "?"
        counts_values = hasattr(build, "reduces_over")  # as the layers here do, which refuse a statistic of one value
        info = NormInfo(
            name=name,
            build=build,
            aliases=tuple(aliases),
            alias_options={a: dict(o) for a, o in aliases.items() if o} if isinstance(aliases, Mapping) else {},
            kind=kind,
            paper=paper,
            reduces_over=reduces_over,
            batch_dependent=batch_dependent,
            train_eval_differ=train_eval_differ,
            state=tuple(state),
            minimum_count=(2 if counts_values else 1) if minimum_count is None else minimum_count,
            ranks=tuple(ranks),
            fused=fused,
            includes_activation=includes_activation,
            unsupported=tuple(unsupported),
            peers=tuple(peers),
            owner=f"{plugins.loading} ({module})" if plugins.loading else module,
        )
        with _table_lock:
            _add(info)
        # Set only if it differs, so that registering another library's class does not change it.
        if inspect.isclass(build) and getattr(build, "includes_activation", False) != includes_activation:
            build.includes_activation = includes_activation  # type: ignore[attr-defined]
        if counts_values and reduces_over:
            build.reduces_over = reduces_over  # type: ignore[attr-defined]
        if inspect.isclass(build) and issubclass(build, nn.Module):
            make_leaf(build)
        return build

    return decorate


def _add(info: NormInfo) -> None:
    earlier = _infos.get(info.name)
    replaces = earlier is not None and _identity(earlier.build) == _identity(info.build)
    keys = {_key(info.name): None, **{_alias_key(a, info.alias_options.get(a)): None for a in info.aliases}}
    for key in keys:
        taken = _names.get(key)
        if taken is None or (replaces and taken == info.name):
            continue
        what = "name" if key == _key(info.name) else "alias"
        raise ValueError(
            f"{what} {key!r} of the norm {info.name!r} from {info.owner} is already taken by {taken!r} "
            f"from {_infos[taken].owner}: give one of them another name"
        )
    _forget(info.name)
    _infos[info.name] = info
    _names.update(dict.fromkeys(keys, info.name))


def _identity(build: Callable[..., nn.Module]) -> tuple[object, object]:
    return getattr(build, "__module__", None), getattr(build, "__qualname__", build)


def _forget(name: str) -> None:
    _infos.pop(name, None)
    for key in [key for key, owner in _names.items() if owner == name]:
        del _names[key]


def info(name: str) -> NormInfo:
    """Return the facts about a norm.

    Raises:
        UnknownNormError: If the norm is unknown; the message suggests the nearest names.
    """
    plugins.load_plugins(_infos, _forget)
    return _find(name)


def create(name: str, num_features: int | nn.Module, **kwargs: Any) -> nn.Module:
    """Build a norm for `num_features` channels: `create("group_norm", 64, num_groups=8)`.

    A norm of kind "weight" takes the module that has the weight instead, and returns it:
    `create("spectral_norm", nn.Linear(64, 10))`.

    Raises:
        UnknownNormError: If the norm is unknown; the message suggests the nearest names.
        UnknownArgumentError: A TypeError, if a keyword is not accepted or a required one is missing.
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range, such as an `eps` below 0.
    """
    found = _find(name)
    kwargs = _options(found, name) | kwargs
    found.check_keywords(kwargs)
    check_num_features(found.name, found.build, num_features)
    check_values(found.name, found.build, kwargs)
    layer = found.build(num_features, **kwargs)
    return layer if found.kind == "weight" else finish(layer)


def factory(name: str, **kwargs: Any) -> functools.partial[nn.Module]:
    """Return a constructor for `norm_layer=` of torchvision, timm and our models: called with a number of channels.

    The keywords are checked at once, not when the first layer is built. The result is a `functools.partial` of the
    registered class or function, and can be pickled if that can.

    It accepts a config of `conf/norm` as it is: `factory(**config.norm)` and `hydra.utils.instantiate(config.norm)`.

    Raises:
        UnknownNormError: If the norm is unknown; the message suggests the nearest names.
        UnknownArgumentError: A TypeError, if a keyword is not accepted or a required one is missing.
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range, such as an `eps` below 0.
    """
    found = _find(name)
    kwargs = _options(found, name) | kwargs
    if kwargs.get("_target_") == HYDRA_TARGET:  # of its config, which says the same to Hydra
        del kwargs["_target_"]
    found.check_keywords(kwargs)
    check_values(found.name, found.build, kwargs)
    return NormFactory(build_norm, build=found.build, **kwargs)


def hydra_factory(name: str, **kwargs: Any) -> functools.partial[nn.Module]:
    """Build a `factory` for Hydra's `instantiate`, which accepts `functools.partial` but no subclass of it."""
    if importlib.util.find_spec("timm"):
        importlib.import_module("timm.layers.create_norm_act")  # where `func` enters, before a model of timm's looks
    made = factory(name, **kwargs)
    return functools.partial(made.func, **made.keywords)


def list_norms(**facts: Any) -> list[str]:
    """Return the sorted names of all norms with these facts: `list_norms(batch_dependent=False)`.

    Facts are compared by equality. A fact with several values (`aliases, state, ranks`) also matches one of them,
    `ranks=5`, or any, `state=True`.

    Raises:
        UnknownArgumentError: A TypeError, if there is no such fact; the message lists the facts.
    """
    plugins.load_plugins(_infos, _forget)
    check_facts(facts)
    return sorted(name for name, norm in list(_infos.items()) if norm.holds(facts))


def facts_of(layer: nn.Module) -> NormInfo | None:
    """Return the facts about the norm that this layer is an instance of, subclasses included; None for other layers."""
    infos = {norm.build: norm for norm in list(_infos.values()) if inspect.isclass(norm.build)}
    return next((infos[kind] for kind in type(layer).__mro__ if kind in infos), None)


def norm_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield qualified name and module of each norm in a model: instances of registered classes, outermost only.

    Norms inside a norm are left out, and so are layers of another class that a registered function returned.
    """
    classes = tuple(norm.build for norm in list(_infos.values()) if inspect.isclass(norm.build))
    seen: set[nn.Module] = set()

    def walk(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if module in seen:
            return
        seen.add(module)
        if isinstance(module, classes):
            yield prefix, module
            return
        for name, child in module.named_children():
            yield from walk(f"{prefix}.{name}" if prefix else name, child)

    return walk("", model)


def _find(name: str) -> NormInfo:
    if not isinstance(name, str):
        raise UnknownNormError(f"the name of a norm must be a string, such as 'group_norm'; got {name!r}")
    if name.strip().lower() in AMBIGUOUS:
        raise UnknownNormError(f"{name!r} is ambiguous: {AMBIGUOUS[name.strip().lower()]}")
    keys = (_alias_key(name, True), _key(name))
    if not any(key in _names for key in keys):
        plugins.load_plugins(_infos, _forget)
    for key in keys:
        if key in _names:
            return _infos[_names[key]]
    raise _unknown(name, keys[-1])


def _options(norm: NormInfo, typed: str) -> dict[str, Any]:
    """Return the options that the typed alias stands for."""
    options = {_alias_key(alias, options): options for alias, options in norm.alias_options.items()}
    return dict(options.get(_alias_key(typed, True)) or options.get(_key(typed)) or {})


def _unknown(name: str, key: str) -> UnknownNormError:
    # Match the part before "norm" too; names take precedence over aliases, and short ones over long ones.
    ordered = sorted(_names.items(), key=lambda entry: (entry[0] == _key(entry[1]), -len(entry[0])))
    known = {stem: norm for each, norm in ordered if len(stem := each.partition("norm")[0]) > 3} | _names
    nearest = dict.fromkeys(known[match] for match in difflib.get_close_matches(key, known, n=6, cutoff=0.76))
    guess = f"did you mean {' or '.join(list(nearest)[:3])}?" if nearest else f"known: {', '.join(sorted(_infos))}."
    broken = "".join(f" The plug-in {plugin} did not load: {why}." for plugin, why in plugins.broken.items())
    in_python, in_a_shell = (
        f"unknown norm {name!r}; {guess} {call} lists all {len(_infos)}.{broken}"
        for call in ("normzoo.list_norms()", "`normzoo list`")
    )
    return UnknownNormError(in_python, in_a_shell)
