"""The facts about a norm, and the checks of its signature."""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn

from normzoo.errors import UserError

Kind = Literal["layer", "weight", "conditional"]


UNSCRIPTED = ("torch.jit.script", "torch.ao.quantization.fuse_modules")
"""Unsupported by default: a forward is Python, and torch fuses only its own classes."""


class UnknownNormError(UserError, LookupError):
    """The norm is unknown; the message suggests the nearest names."""

    def __init__(self, said: str, at_command_line: str | None = None) -> None:
        super().__init__(said)
        self.at_command_line = at_command_line


class UnknownArgumentError(UserError, TypeError):
    """A keyword is unknown, or a required one is missing; the message lists the accepted ones."""


@dataclass(frozen=True)
class NormInfo:
    """How to build a norm, and the facts about it that `list_norms` filters on."""

    name: str
    build: Callable[..., nn.Module]
    batch_dependent: bool
    """Whether, in training, the output for one sample depends on the other samples of the batch."""
    aliases: tuple[str, ...] = ()
    alias_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """The options of aliases that stand for the norm with options."""
    kind: Kind = "layer"
    paper: str = ""
    """Authors, year and arXiv number; empty where there is none."""
    reduces_over: str = ""
    """The dimensions that one mean or variance averages, such as `N, *` or `C/G, *`; `-` where nothing is averaged.

    N for samples, C for channels, * for positions; `and` between the dimensions of several statistics.
    """
    train_eval_differ: bool = False
    """Whether evaluation and training compute different functions, with default options.

    For other options a layer's running statistics decide, or an attribute of this name.
    """
    state: tuple[str, ...] = ()
    """The buffers that a forward in training mode updates."""
    minimum_count: int = 1
    """The minimum number of values per statistic in training; 1 is no limit.

    A layer whose options require more has an attribute of this name.
    """
    ranks: tuple[int, ...] = (2, 3, 4, 5)
    """The numbers of input dimensions accepted, batch and channels included."""
    fused: bool = False
    """Whether one torch kernel does the work, rather than several."""
    includes_activation: bool = False
    unsupported: tuple[str, ...] = UNSCRIPTED
    """Which of `torch.jit.script`, `torch.jit.trace`, `fuse_modules` and `torch.compile(dynamic=True)` do not support
    the layer; torch.fx, torch.compile and torch.export always do."""
    peers: tuple[str, ...] = ()
    """Layers of torch, torchvision and timm whose checkpoints load and give the same output in evaluation."""
    owner: str = ""
    """The module, and for a plug-in the distribution, that registered it."""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (self.build.__doc__ or "").strip().partition("\n")[0].strip()

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments and their defaults; `inspect.Parameter.empty` marks a required one.

        The first parameter, `num_features`, is left out.
        """
        _, *rest = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in rest if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}

    def check_keywords(self, keywords: Iterable[str]) -> None:
        """Check that the norm accepts these keywords and that no required one is missing."""
        arguments = self.arguments
        empty = inspect.Parameter.empty
        accepted = ", ".join(k if v is empty else f"{k}={v!r}" for k, v in arguments.items()) or "none"
        given = set(keywords)
        for keyword in sorted(given - set(arguments)):
            raise UnknownArgumentError(
                f"{self.name}: unknown keyword {keyword!r}{_nearest(keyword, arguments)}; accepted: {accepted}"
            )
        missing = [keyword for keyword, default in arguments.items() if default is empty and keyword not in given]
        if missing:
            raise UnknownArgumentError(f"{self.name} needs {', '.join(missing)}; accepted: {accepted}")

    def is_redefined_by(self, build: Callable[..., nn.Module]) -> bool:
        """Return whether both have the same module and qualified name, as after `importlib.reload`."""
        ours, other = ((getattr(b, "__module__", None), getattr(b, "__qualname__", b)) for b in (self.build, build))
        return ours == other

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Return whether the facts match: equal, for a fact with several values one of them, or True for any at all."""
        return all(_holds(getattr(self, fact), wanted) for fact, wanted in facts.items())


RESERVED = ("build", "act_layer", "apply_act", "act_kwargs", "drop_layer", "inplace")
"""Keywords of the factory itself, most of them from timm."""

FACTS = tuple(field.name for field in dataclasses.fields(NormInfo) if field.name not in ("name", "build"))


def check_facts(facts: Iterable[str]) -> None:
    """Check that these are names of facts."""
    for fact in facts:
        if fact not in FACTS:
            raise UnknownArgumentError(f"unknown fact {fact!r}{_nearest(fact, FACTS)}; facts: {', '.join(FACTS)}")


def check_registration(name: str, kind: str, aliases: object, state: object) -> None:
    """Check what a norm is registered with: a name in snake case, a known kind, and sequences of strings."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise ValueError(f"a norm's name must be in snake case, such as 'group_norm'; got {name!r}")
    if isinstance(aliases, str) or isinstance(state, str):
        raise TypeError(f"{name}: aliases and state must be sequences of strings, not one string")
    if kind not in get_args(Kind):
        raise ValueError(f"{name}: unknown kind {kind!r}; choose one of {', '.join(get_args(Kind))}")


def check_signature(name: str, build: Callable[..., nn.Module]) -> None:
    """Check that the registry can call it: channels come first, and every option has a name."""
    parameters = list(inspect.signature(build).parameters.values())
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in by_position:
        raise TypeError(f"{name}: the first parameter must be the number of channels, taken by position")
    for parameter in parameters:
        if parameter.name in RESERVED:
            raise TypeError(f"{name}: the keyword {parameter.name!r} is reserved for factories; rename it")
        if parameter.kind is parameter.VAR_KEYWORD:
            raise TypeError(
                f"{name}: **{parameter.name} would swallow misspelt options; name the accepted ones in the signature"
            )


def _holds(value: object, wanted: object) -> bool:
    if isinstance(value, tuple):
        if isinstance(wanted, bool):
            return bool(value) is wanted
        return value == tuple(wanted) if isinstance(wanted, (tuple, list)) else wanted in value
    return value == wanted


def _nearest(word: str, words: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
