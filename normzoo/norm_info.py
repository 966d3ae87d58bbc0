"""What is known of a norm, and the checks that its own signature allows."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from normzoo.errors import UserError

Kind = Literal["layer", "weight", "conditional"]


UNSCRIPTED = ("torch.jit.script", "torch.ao.quantization.fuse_modules")
"""What by default is said not to work: a forward is Python, and modules are fused by torch's own classes."""
NOT_DYNAMIC = (*UNSCRIPTED, "torch.compile(dynamic=True)")
"""Of a norm whose `eps` is met within a function of its own first, and then outside, which Dynamo does not follow."""


class UnknownNormError(UserError, LookupError):
    """No norm goes by this name; the message lists the nearest that do."""

    def __init__(self, said: str, at_command_line: str | None = None) -> None:
        super().__init__(said)
        self.at_command_line = at_command_line


class UnknownArgumentError(UserError, TypeError):
    """A keyword that is not accepted, or a needed one that is missing; the message lists the accepted ones."""


@dataclass(frozen=True)
class NormInfo:
    """What is known of a norm: how to build it, and the facts that `list_norms` filters on."""

    name: str
    build: Callable[..., nn.Module]
    batch_dependent: bool
    """Whether, in training, the output for one sample depends on the other samples of the batch."""
    aliases: tuple[str, ...] = ()
    alias_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """Of the aliases that stand for the norm with certain options, these."""
    kind: Kind = "layer"
    paper: str = ""
    """Authors, year and arXiv number; empty where there is none."""
    reduces_over: str = ""
    """The dimensions that one mean or variance averages, such as `N, *` or `C/G, *`; `-` where nothing is averaged.

    N for samples, C for channels, * for positions; `and` between the dimensions of several statistics.
    """
    train_eval_differ: bool = False
    """Whether evaluation computes something else than training, as the norm is built by default.

    A layer built otherwise is asked for its running statistics, or for an attribute of this name where it has one.
    """
    state: tuple[str, ...] = ()
    """The buffers that a forward in training mode writes."""
    minimum_count: int = 1
    """The fewest values a statistic may average in training; 1 is no limit.

    A layer whose arguments ask for more has an attribute of this name.
    """
    ranks: tuple[int, ...] = (2, 3, 4, 5)
    """The numbers of input dimensions accepted, batch and channels included."""
    fused: bool = False
    """Whether one torch kernel does the work, or a composition of several."""
    includes_activation: bool = False
    unsupported: tuple[str, ...] = UNSCRIPTED
    """What of torch does not take the layer, of `torch.jit.script`, `torch.jit.trace`, `fuse_modules` and
    `torch.compile(dynamic=True)`; torch.fx, torch.compile and torch.export do."""
    peers: tuple[str, ...] = ()
    """The layers of torch, torchvision and timm whose checkpoints load, and then give the same output in evaluation."""
    owner: str = ""
    """The module, and for a plug-in the distribution, that registered it."""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (self.build.__doc__ or "").strip().partition("\n")[0].strip()

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments and their defaults; `inspect.Parameter.empty` marks one that must be given.

        The first parameter, `num_features`, is left out.
        """
        _, *rest = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in rest if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}

    def check_keywords(self, keywords: Iterable[str]) -> None:
        """Refuse keywords that building the norm would refuse, and say which it accepts."""
        arguments = self.arguments
        empty = inspect.Parameter.empty
        accepted = ", ".join(k if v is empty else f"{k}={v!r}" for k, v in arguments.items()) or "none"
        given = set(keywords)
        for keyword in sorted(given - set(arguments)):
            raise UnknownArgumentError(
                f"{self.name} takes no keyword {keyword!r}{_nearest(keyword, arguments)}; accepted: {accepted}"
            )
        missing = [keyword for keyword, default in arguments.items() if default is empty and keyword not in given]
        if missing:
            raise UnknownArgumentError(f"{self.name} needs {', '.join(missing)}; accepted: {accepted}")

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether these facts hold: equal, or for a fact of several values one of them, or True for any at all."""
        return all(_holds(getattr(self, fact), wanted) for fact, wanted in facts.items())


RESERVED = ("build", "act_layer", "apply_act", "act_kwargs", "drop_layer", "inplace")
"""Keywords that a factory takes itself, most of them from timm."""

FACTS = tuple(field.name for field in dataclasses.fields(NormInfo) if field.name not in ("name", "build"))


def check_facts(facts: Iterable[str]) -> None:
    """Refuse a word that is no fact, and say which are."""
    for fact in facts:
        if fact not in FACTS:
            raise UnknownArgumentError(f"no fact is called {fact!r}{_nearest(fact, FACTS)}; facts: {', '.join(FACTS)}")


def check_signature(name: str, build: Callable[..., nn.Module]) -> None:
    """Refuse what the registry could not call: channels must come first, and every option must have a name."""
    parameters = list(inspect.signature(build).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise TypeError(f"{name}: the first parameter must be the number of channels, taken by position")
    for parameter in parameters:
        if parameter.name in RESERVED:
            raise TypeError(
                f"{name}: the keyword {parameter.name!r} means something else to a factory; name it otherwise"
            )
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
