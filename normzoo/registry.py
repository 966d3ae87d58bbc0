"""The registry of norms: register, find and build a norm by name."""

import functools
import importlib.util
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from normzoo import plugins
from normzoo.leaf import wrap_call
from normzoo.norm_act import NormFactory, build_norm, finish
from normzoo.norm_info import (
    UNSCRIPTED,
    Kind,
    NormInfo,
    UnknownArgumentError,
    UnknownNormError,
    check_facts,
    check_registration,
    check_signature,
)
from normzoo.norm_names import AMBIGUOUS, key_of, key_of_alias, unknown_norm
from normzoo.validation import ArgumentValueError, check_num_features, check_values

__all__ = [
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
    check_registration(name, kind, aliases, state)

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
            wrap_call(build)
        return build

    return decorate


def _add(info: NormInfo) -> None:
    replaces = info.name in _infos and _infos[info.name].is_redefined_by(info.build)
    keys = {key_of(info.name): None, **{key_of_alias(a, info.alias_options.get(a)): None for a in info.aliases}}
    for key in keys:
        if (taken := _names.get(key)) is None or (replaces and taken == info.name):
            continue
        what = "name" if key == key_of(info.name) else "alias"
        raise ValueError(
            f"{what} {key!r} of the norm {info.name!r} from {info.owner} is already taken by {taken!r} "
            f"from {_infos[taken].owner}: give one of them another name"
        )
    _forget(info.name)
    _infos[info.name] = info
    _names.update(dict.fromkeys(keys, info.name))


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


def create(name: str, num_features: int | Sequence[int] | nn.Module, **kwargs: Any) -> nn.Module:
    """Build a norm for `num_features` channels: `create("group_norm", 64, num_groups=8)`.

    A norm of kind "weight" takes the module that has the weight instead, and returns it:
    `create("spectral_norm", nn.Linear(64, 10))`.

    Raises:
        UnknownNormError: If the norm is unknown; the message suggests the nearest names.
        UnknownArgumentError: A TypeError, if a keyword is not accepted or a required one is missing.
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range, such as an `eps` below 0.
    """
    found, kwargs = _checked(name, kwargs)
    check_num_features(found.name, found.build, num_features)
    layer = found.build(num_features, **kwargs)
    return layer if found.kind == "weight" else finish(layer)


def factory(name: str, **kwargs: Any) -> functools.partial[nn.Module]:
    """Return a constructor for `norm_layer=` of torchvision, timm and our models: called with a number of channels.

    The keywords are checked at once, as by `create`, and not when the first layer is built; only what depends on the
    number of channels waits for it. The result is a `functools.partial` of the registered class or function, and can
    be pickled if that can. A config of `conf/norm` will do: `factory(**config.norm)` and
    `hydra.utils.instantiate(config.norm)`.

    Raises:
        UnknownNormError: If the norm is unknown; the message suggests the nearest names.
        UnknownArgumentError: A TypeError, if a keyword is not accepted or a required one is missing.
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range, or two options exclude each other.
    """
    if kwargs.get("_target_") == HYDRA_TARGET:  # of its config, which says the same to Hydra
        del kwargs["_target_"]
    found, kwargs = _checked(name, kwargs)
    _check_options(found, kwargs)
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
    modules: Iterator[tuple[str, nn.Module]] = model.named_modules()
    outer = None  # the last norm found, whose parts follow it
    for name, module in modules:
        inside = outer is not None and (not outer or name.startswith(f"{outer}."))
        if isinstance(module, classes) and not inside:
            outer = name
            yield name, module


def _find(name: str) -> NormInfo:
    if not isinstance(name, str):
        raise UnknownNormError(f"the name of a norm must be a string, such as 'group_norm'; got {name!r}")
    if name.strip().lower() in AMBIGUOUS:
        raise UnknownNormError(f"{name!r} is ambiguous: {AMBIGUOUS[name.strip().lower()]}")
    keys = (key_of_alias(name, True), key_of(name))
    if not any(key in _names for key in keys):
        plugins.load_plugins(_infos, _forget)
    for key in keys:
        if key in _names:
            return _infos[_names[key]]
    raise unknown_norm(name, _names, plugins.broken)


def _check_options(norm: NormInfo, kwargs: dict[str, Any]) -> None:
    """Refuse options that no number of channels makes valid, by building a layer without memory.

    As many channels as groups always divide into these. Other errors may be of the number, as with a plug-in that wants
    more channels, and wait for the true one.
    """
    if norm.kind == "weight":
        return
    options = {key: value for key, value in kwargs.items() if key != "device"}
    try:
        with torch.device("meta"):
            norm.build(max(options.get("num_groups") or 1, 1), **options)
    except ArgumentValueError:
        raise
    except Exception:
        return


def _checked(name: str, kwargs: dict[str, Any]) -> tuple[NormInfo, dict[str, Any]]:
    """Find a norm and check its keywords, to which the options that an alias stands for are added."""
    found = _find(name)
    options = {key_of_alias(alias, options): options for alias, options in found.alias_options.items()}
    kwargs = {**(options.get(key_of_alias(name, True)) or options.get(key_of(name)) or {}), **kwargs}
    found.check_keywords(kwargs)
    check_values(found.name, found.build, kwargs)
    return found, kwargs
