"""Every norm under a name: what is registered, what is known of it, and how to build it."""

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
# Not the plug-ins' lock, because a plug-in registers its norms while it is being loaded, perhaps from another thread.
_table_lock = threading.Lock()


# Classes of other libraries, as they are typed, that are not the norm which has the same name here but for a `_`.
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
    """Names are equal when they differ only in case, in `_ - .` and spaces, and in a leading `torch.nn.` or `nn.`."""
    return re.sub(r"[-_.\s]", "", re.sub(r"^\s*(torch\.)?nn\.", "", name.lower()))


def _alias_key(alias: str, options: object) -> str:
    """As `_key`; but `nn.LayerNorm`, which stands for a norm with options, is not `layer_norm`."""
    key, of_torch = _key(alias), re.match(r"\s*(torch\.)?nn\.", alias.lower())
    return f"nn.{key}" if options and of_torch else key


def register(
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
    """Register the decorated class, or function, as the norm called `name`.

    What is registered takes the number of channels first and its options by keyword, without `**kwargs`, so that a
    misspelt option is found before anything is built. The other arguments are the facts of `NormInfo`.

    A class or function that is defined again under the same module and qualified name (`importlib.reload`, a notebook
    cell run twice) replaces the earlier one, as it does in its module; layers built before keep the old class.

    Args:
        name: In snake case; also the name of the file `conf/norm/<name>.yaml`.
        aliases: Other names to be found by; `_ - .`, spaces, case and a leading `torch.nn.` make no difference. A
            mapping says of each which options make the norm what is called so elsewhere: `{"BN2d": {"eps": 1e-3}}`.
        minimum_count: None for 2 of a layer that says how many values a statistic has by `reduces_over`, else 1.

    Raises:
        ValueError: If the name or an alias is taken by another norm, or the name is not in snake case.
        TypeError: If what is decorated takes `**kwargs` or no positional argument.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise ValueError(f"a norm's name is in snake case, such as 'group_norm'; got {name!r}")
    if isinstance(aliases, str) or isinstance(state, str):
        raise TypeError(f"{name}: aliases and state are sequences of strings, not one string")
    if kind not in get_args(Kind):
        raise ValueError(f"{name}: kind is one of {', '.join(get_args(Kind))}; got {kind!r}")

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
        # Written only on a difference, so that registering a class of another library leaves it as it is.
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
    """The facts on the norm of this name.

    Raises:
        UnknownNormError: If no norm is called so; the message lists the nearest names.
    """
    plugins.load_plugins(_infos, _forget)
    return _find(name)


def create(name: str, num_features: int | nn.Module, **kwargs: Any) -> nn.Module:
    """Build the norm of this name for `num_features` channels: `create("group_norm", 64, num_groups=8)`.

    A norm of kind "weight" takes the module that has the weight in their place, and returns it:
    `create("spectral_norm", nn.Linear(64, 10))`.

    Raises:
        UnknownNormError: If no norm is called so; the message lists the nearest names.
        UnknownArgumentError: A TypeError, if a keyword is not accepted or a needed one is missing.
        TypeError: If a value is of another type than the norm takes.
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
    """What torchvision, timm and the models here take as `norm_layer=`: called with a number of channels, it builds.

    The keywords are checked now, not when the first layer is built. The result is a `functools.partial` of the
    registered class or function, and can be pickled where that can.

    A config of `conf/norm` is taken as it is: `factory(**config.norm)` and `hydra.utils.instantiate(config.norm)`.

    Raises:
        UnknownNormError: If no norm is called so; the message lists the nearest names.
        UnknownArgumentError: A TypeError, if a keyword is not accepted or a needed one is missing.
        TypeError: If a value is of another type than the norm takes.
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
    """`factory` for Hydra's `instantiate`, which takes a `functools.partial` itself and none derived from it."""
    if importlib.util.find_spec("timm"):
        importlib.import_module("timm.layers.create_norm_act")  # where `func` enters, before a model of timm's looks
    made = factory(name, **kwargs)
    return functools.partial(made.func, **made.keywords)


def list_norms(**facts: Any) -> list[str]:
    """The names of all norms for which these facts hold, sorted: `list_norms(batch_dependent=False)`.

    A fact is compared by equality. A fact that holds several values (`aliases, state, ranks`) may also be asked for
    one of them, `ranks=5`, or for having any, `state=True`.

    Raises:
        UnknownArgumentError: A TypeError, if there is no such fact; the message lists the facts.
    """
    plugins.load_plugins(_infos, _forget)
    check_facts(facts)
    return sorted(name for name, norm in list(_infos.items()) if norm.holds(facts))


def facts_of(layer: nn.Module) -> NormInfo | None:
    """The facts on the norm whose class this layer is of, or of a class derived from it; None for any other layer."""
    infos = {norm.build: norm for norm in list(_infos.values()) if inspect.isclass(norm.build)}
    return next((infos[kind] for kind in type(layer).__mro__ if kind in infos), None)


def norm_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Qualified name and module of each norm in a model: instances of the registered classes, outermost only.

    A norm that a norm is made of is not listed; nor is one from a registered function that returns another class.
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
        raise UnknownNormError(f"a norm is asked for by its name, a string such as 'group_norm'; got {name!r}")
    if name.strip().lower() in AMBIGUOUS:
        raise UnknownNormError(f"{name!r} is the name of several norms: {AMBIGUOUS[name.strip().lower()]}")
    keys = (_alias_key(name, True), _key(name))
    if not any(key in _names for key in keys):
        plugins.load_plugins(_infos, _forget)
    for key in keys:
        if key in _names:
            return _infos[_names[key]]
    raise _unknown(name, keys[-1])


def _options(norm: NormInfo, typed: str) -> dict[str, Any]:
    """What the alias that was typed, if it was one, stands for beside the norm."""
    options = {_alias_key(alias, options): options for alias, options in norm.alias_options.items()}
    return dict(options.get(_alias_key(typed, True)) or options.get(_key(typed)) or {})


def _unknown(name: str, key: str) -> UnknownNormError:
    # Also by what stands before "norm", of names rather than of aliases, and of the shortest of them.
    ordered = sorted(_names.items(), key=lambda entry: (entry[0] == _key(entry[1]), -len(entry[0])))
    known = {stem: norm for each, norm in ordered if len(stem := each.partition("norm")[0]) > 3} | _names
    nearest = dict.fromkeys(known[match] for match in difflib.get_close_matches(key, known, n=6, cutoff=0.76))
    guess = f"did you mean {' or '.join(list(nearest)[:3])}?" if nearest else f"known: {', '.join(sorted(_infos))}."
    broken = "".join(f" The plug-in {plugin} did not load: {why}." for plugin, why in plugins.broken.items())
    in_python, in_a_shell = (
        f"no norm is called {name!r}; {guess} {call} lists all {len(_infos)}.{broken}"
        for call in ("normzoo.list_norms()", "`normzoo list`")
    )
    return UnknownNormError(in_python, in_a_shell)
