"""The names among the trainer's options that Lightning knows."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from lightning.pytorch.strategies import StrategyRegistry

from normzoo.errors import UserError
from normzoo.training.build import Config
from normzoo.training.ranks import DDP


def check_names(config: Config) -> None:
    """Refuse a precision or a strategy that Lightning does not know, before it says so itself in the middle of a sweep.

    Raises:
        UserError: Naming the option, its value and what it may be.
    """
    trainer = config["trainer"]
    _check("strategy", trainer.get("strategy", "auto"), [*DDP, *StrategyRegistry.available_strategies()])
    with contextlib.suppress(ImportError):  # a Lightning that keeps the list elsewhere says it later
        from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT

        _check("precision", trainer.get("precision"), _literals(_PRECISION_INPUT))


def _check(option: str, value: Any, known: Iterable[Any]) -> None:
    names = sorted({str(name) for name in known})
    if value is None or str(value) in names:
        return
    near = difflib.get_close_matches(str(value), names, n=2)
    meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    raise UserError(f"trainer.{option}={value} is none that Lightning knows; {meant}")


def _literals(annotation: Any) -> Iterator[Any]:
    for one in get_args(annotation):
        if get_args(one):
            yield from _literals(one)
        else:
            yield one
