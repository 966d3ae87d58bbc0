"""The trainer's options: those that Lightning knows, and what it makes of them."""

import contextlib
import difflib
import inspect
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from lightning import Trainer
from lightning.pytorch.strategies import StrategyRegistry

from normzoo.errors import UserError
from normzoo.training.distributed import DDP
from normzoo.training.instantiate import Config


def check_names(config: Config) -> None:
    """Refuse an option, a precision or a strategy that Lightning does not know.

    Raises:
        UserError: Naming the option, its value and what it may be.
    """
    trainer = config["trainer"]
    known = {"name", "threads", *inspect.signature(Trainer).parameters}
    for option in trainer:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            meant = f"did you mean trainer.{near[0]}?" if near else "there are those of lightning.Trainer"
            raise UserError(f"nothing reads trainer.{option}; {meant}")
    _check("strategy", trainer.get("strategy", "auto"), [*DDP, *StrategyRegistry.available_strategies()])
    with contextlib.suppress(ImportError):  # a Lightning that keeps the list elsewhere says it later
        from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT

        _check("precision", trainer.get("precision"), _literals(_PRECISION_INPUT))


def check_trainer(config: Config) -> None:
    """Have Lightning look at the trainer's options together, before it does so in the middle of a sweep.

    Raises:
        UserError: With what it says, such as that a strategy needs a GPU.
    """
    from normzoo.training.fit import build_trainer  # which itself has what was checked

    alone = {**config, "logger": {}, "trainer": {**config["trainer"], "devices": 1, "num_nodes": 1}}
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build_trainer(alone, Path(), [])
    except Exception as error:  # whatever a plugin of it raises
        raise UserError(f"trainer={config['trainer'].get('name')}: {str(error).strip().splitlines()[0]}") from error
    finally:
        torch.use_deterministic_algorithms(deterministic)


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
